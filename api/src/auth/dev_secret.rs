//! The HS256 secret of a node that nobody configured one for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use thiserror::Error;
use uuid::Uuid;

use super::secret::Secret;

const FILE_NAME: &str = "dev-jwt-secret";
const SECRET_BYTES: usize = 32;

#[derive(Debug, Error)]
pub enum DevSecretError {
    #[error("{} can be read by other users: remove it, or chmod it to 600 if they have not read it", .0.display())]
    Exposed(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The secret in `<data_dir>/dev-jwt-secret`, and whether it was made by this call.
///
/// It is made once, of 32 random bytes, readable by this user only. Of several processes that start together all get
/// the same one: each writes a file of its own, and the first to link it under the name wins.
pub fn dev_secret(data_dir: &Path) -> Result<(Secret, bool), DevSecretError> {
    let path = data_dir.join(FILE_NAME);
    let failed = |source| DevSecretError::Io { path: path.clone(), source };
    if let Some(secret) = read(&path)? {
        return Ok((secret, false));
    }
    fs::create_dir_all(data_dir).map_err(failed)?;
    let own = data_dir.join(format!("{FILE_NAME}.{}", Uuid::now_v7()));
    let text = URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>());
    let linked = write(&own, &text).and_then(|()| fs::hard_link(&own, &path));
    fs::remove_file(&own)
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .map_err(failed)?;
    match linked {
        Ok(()) => Ok((Secret::new(text), true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let secret = read(&path)?.ok_or_else(|| failed(ErrorKind::NotFound.into()))?;
            Ok((secret, false))
        }
        Err(error) => Err(failed(error)),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn read(path: &Path) -> Result<Option<Secret>, DevSecretError> {
    let failed = |source| DevSecretError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(DevSecretError::Exposed(path.to_owned()));
    }
    let text = io::read_to_string(file).map_err(failed)?;
    Ok(Some(Secret::new(text.trim_end())))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn the_secret_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let (first, made) = dev_secret(&data_dir).unwrap();
        assert!(made && first.expose().len() >= 32);
        let (second, made) = dev_secret(&data_dir).unwrap();
        assert!(!made && second == first);
        assert_eq!(fs::metadata(data_dir.join(FILE_NAME)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 1);
    }

    #[test]
    fn processes_that_start_together_get_the_same_secret() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<(Secret, bool)> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| dev_secret(dir.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(all.iter().map(|(secret, _)| secret.expose()).collect::<HashSet<_>>().len(), 1);
        assert_eq!(all.iter().filter(|(_, made)| *made).count(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        dev_secret(dir.path()).unwrap();
        fs::set_permissions(dir.path().join(FILE_NAME), fs::Permissions::from_mode(0o644)).unwrap();
        let refused = dev_secret(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("chmod"), "{refused}");
    }
}
