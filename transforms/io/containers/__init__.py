"""Files that hold pictures: tar archives and Parquet."""
