//! What happens, and in which order: the gateway, the policies and the ports to everything outside.
//!
//! | module | holds |
//! |---|---|
//! | [`ports`] | what the application needs from outside: the event log, providers, content keys, the clock |
//! | [`principal`] | who asks, for which account, and what their roles allow |

pub mod ports;
pub mod principal;
