//! How the outside is reached: adapters behind the ports of the application.
//!
//! | module | holds |
//! |---|---|
//! | [`embedded_postgres`] | the private PostgreSQL that `aihub` brings along |

pub mod embedded_postgres;
