//! What holds for every view, however odd.
