"""The picture files of an export: fetched again, converted, copied or linked, and counted."""
