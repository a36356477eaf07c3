"""Images inside of larger files: tar archives, Parquet and Arrow, on this machine or elsewhere, read where they lie."""
