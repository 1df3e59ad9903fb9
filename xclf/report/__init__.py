"""What people read: the worked example and pictures."""
