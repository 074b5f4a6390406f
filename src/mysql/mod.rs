//! What we know of MySQL itself: GTID sets and positions (pure).
