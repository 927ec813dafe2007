//! What a folder is known by again, on whichever node and under whatever path it is mounted there.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    path::Path,
    thread::sleep,
    time::Duration,
};

use uuid::Uuid;

/// No key begins with a dot.
const FILE_NAME: &str = ".aihub-media";
/// Whoever makes the mark has written it by then.
const WRITTEN_AFTER: Duration = Duration::from_millis(20);

/// The folder's mark. It is made once; of those who start together one makes it.
pub fn of(folder: &Path) -> io::Result<String> {
    let path = folder.join(FILE_NAME);
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(mut file) => {
            let mark = Uuid::now_v7().to_string();
            file.write_all(mark.as_bytes())?;
            file.sync_all()?;
            Ok(mark)
        }
        // It may be there although nobody may write.
        Err(error) => match read(&path) {
            Ok(mark) => Ok(mark),
            Err(_) => Err(error),
        },
    }
}

fn read(path: &Path) -> io::Result<String> {
    for _ in 0..2 {
        let mark = std::fs::read_to_string(path)?;
        if !mark.trim().is_empty() {
            return Ok(mark.trim().to_owned());
        }
        sleep(WRITTEN_AFTER);
    }
    Err(ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_again_and_another_one_is_another() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mark = of(one.path()).unwrap();
        assert_eq!(of(one.path()).unwrap(), mark);
        assert_ne!(of(other.path()).unwrap(), mark);
    }
}
