"""What happens to frames between services: custom processors, turn strategies and observers."""
