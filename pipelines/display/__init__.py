"""What people see: progress, summaries and the report page."""
