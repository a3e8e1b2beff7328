"""Batch the requests to a hosted API, submit them within limits, poll their jobs and match the answers."""
