"""What hosted APIs cost: bills of requests, the limit on spending, and the journal of paid jobs."""
