//! What happens, and in which order: the gateway, the policies and the ports to everything outside.
//!
//! | module | holds |
//! |---|---|
//! | [`access`] | who looks at what, on record |
//! | [`accounts`] | commands on credit accounts, decided in memory, committed in batches |
//! | [`answer`] | an answer while it is being made, and afterwards for whoever comes back for it |
//! | [`audit_keys`] | another key signs what the log is: the log says so first |
//! | [`catalog`] | which provider has which model, at which price, and what stands in for what |
//! | [`erasure`] | content that is erased: the log says so first |
//! | [`error`] | why a request got no answer, in the words of the protocol |
//! | [`fields`] | what stands in a JSON object that a client sent |
//! | [`gateway`] | from a request to its answer, with the money on both ends |
//! | [`limits`] | what one user, one account and all together may ask of this node |
//! | [`lost_answers`] | what became of answers that this node does not have |
//! | [`notes`] | credit and debit notes, which name the charges that they correct |
//! | [`policies`] | what follows from what happened, without anyone asking |
//! | [`ports`] | what the application needs from outside: the event log, providers, content keys, the clock |
//! | [`principal`] | who asks, for which account, and what their roles allow |
//! | [`refusals`] | what callers are refused, on its way into the log |
//! | [`request`] | what a client asks for, checked field by field |
//! | [`shares`] | what a node has a limited amount of, shared out |
//! | [`upstream`] | a provider with what guards it: breaker, cool-down, concurrency and rate |
//! | [`videos`] | video jobs, from the request to the file, with the money on both ends |
//! | [`weight`] | how much memory a JSON text takes once it is read |
//! | [`workflows`] | models write, then videos are made from what they wrote |

pub mod access;
pub mod accounts;
mod admission;
pub mod answer;
pub mod audit_keys;
pub mod catalog;
pub mod erasure;
pub mod error;
pub mod fields;
pub mod gateway;
pub mod limits;
pub mod lost_answers;
pub mod notes;
pub mod policies;
pub mod ports;
pub mod principal;
pub mod refusals;
pub mod request;
pub mod shares;
pub mod upstream;
pub mod videos;
pub mod weight;
pub mod workflows;
