//! The HS256 secret of a node that nobody configured one for.

use std::path::Path;

use aihub_infrastructure::secret_file::{SecretFileError, read_or_make};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::secret::Secret;

const FILE_NAME: &str = "dev-jwt-secret";
const SECRET_BYTES: usize = 32;

/// The secret in `<data_dir>/dev-jwt-secret`, and whether it was made by this call, of 32 random bytes.
pub fn dev_secret(data_dir: &Path) -> Result<(Secret, bool), SecretFileError> {
    let new = || URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>());
    let (text, made) = read_or_make(data_dir, FILE_NAME, new)?;
    Ok((Secret::new(text), made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_outlives_the_process_and_is_long_enough_to_sign_with() {
        let dir = tempfile::tempdir().unwrap();
        let (first, made) = dev_secret(dir.path()).unwrap();
        assert!(made && first.expose().len() >= SECRET_BYTES);
        assert!(dev_secret(dir.path()).unwrap() == (first, false));
    }
}
