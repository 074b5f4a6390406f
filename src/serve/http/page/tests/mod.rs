//! Rendering, held against hostile words in every field.
