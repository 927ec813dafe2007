//! Webhooks to clients: the end of a job that asked for one is told to a URL of the client's, until it is taken or a day is
//! over.
//!
//! | module | holds |
//! |---|---|
//! | [`address`] | which addresses may be called |
//! | [`deliveries`] | what has to be told, and what became of it |
//! | [`sender`] | telling it |

pub mod address;
pub mod deliveries;
pub mod sender;

mod call;
mod leases;

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::secret_file::{SecretFileError, read_or_make};

/// For development: what accounts' secrets are made from, in `<data_dir>/dev-webhook-secret`.
pub fn dev_master(data_dir: &Path) -> Result<String, SecretFileError> {
    let make = || STANDARD.encode(rand::random::<[u8; 32]>());
    read_or_make(data_dir, "dev-webhook-secret", make).map(|(secret, _)| secret)
}
