//! Whoever reads the log reads on, however large what comes next is; and what callers send is not in it.

mod content;
mod large;
