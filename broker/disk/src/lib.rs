//! The one seam to files: the real disk, and one that loses power.
