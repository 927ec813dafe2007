//! What the user was promised, tested from outside.
//!
//! | module | holds |
//! |---|---|
//! | [`postgres`] | the PostgreSQL of the test process, and a database for each test |

pub mod postgres;
