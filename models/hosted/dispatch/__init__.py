"""Requests to a hosted API: batched, submitted within limits, polled, and matched to results."""
