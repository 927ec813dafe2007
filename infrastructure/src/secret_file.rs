//! Secrets of a node that nobody configured any for: each in a file that only this user can read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;
use uuid::Uuid;

#[derive(Debug, Error)]
pub enum SecretFileError {
    #[error("{} can be read by other users: remove it, or chmod it to 600 if they have not read it", .0.display())]
    Exposed(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The text in `<dir>/<file_name>`, and whether it was made by this call.
///
/// It is made once, by `make`, and readable by this user only. Of several processes that start together all get the
/// same one: each writes a file of its own, and the first to link it under the name wins.
pub fn read_or_make(
    dir: &Path,
    file_name: &str,
    make: impl FnOnce() -> String,
) -> Result<(String, bool), SecretFileError> {
    let path = dir.join(file_name);
    let failed = |source| SecretFileError::Io { path: path.clone(), source };
    if let Some(secret) = read(&path)? {
        return Ok((secret, false));
    }
    fs::create_dir_all(dir).map_err(failed)?;
    let own = dir.join(format!("{file_name}.{}", Uuid::now_v7()));
    let text = make();
    let linked = write(&own, &text).and_then(|()| fs::hard_link(&own, &path));
    fs::remove_file(&own)
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .map_err(failed)?;
    match linked {
        Ok(()) => Ok((text, true)),
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

fn read(path: &Path) -> Result<Option<String>, SecretFileError> {
    let failed = |source| SecretFileError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(SecretFileError::Exposed(path.to_owned()));
    }
    let text = io::read_to_string(file).map_err(failed)?;
    Ok(Some(text.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    const NAME: &str = "dev-secret";

    fn make() -> String {
        Uuid::now_v7().to_string()
    }

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let (first, made) = read_or_make(&data_dir, NAME, make).unwrap();
        assert!(made && !first.is_empty());
        assert_eq!(read_or_make(&data_dir, NAME, make).unwrap(), (first, false));
        assert_eq!(fs::metadata(data_dir.join(NAME)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 1);
    }

    #[test]
    fn processes_that_start_together_get_the_same_secret() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<(String, bool)> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..16).map(|_| scope.spawn(|| read_or_make(dir.path(), NAME, make).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(all.iter().map(|(secret, _)| secret).collect::<HashSet<_>>().len(), 1);
        assert_eq!(all.iter().filter(|(_, made)| *made).count(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        read_or_make(dir.path(), NAME, make).unwrap();
        fs::set_permissions(dir.path().join(NAME), fs::Permissions::from_mode(0o644)).unwrap();
        let refused = read_or_make(dir.path(), NAME, make).unwrap_err();
        assert!(refused.to_string().contains("chmod"), "{refused}");
    }
}
