"""What-if: statistics, pictures, reports, calibration."""
