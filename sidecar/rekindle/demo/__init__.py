"""`rekindle demo`: conversations on a real engine that is killed in the middle, with Rekindle and without."""
