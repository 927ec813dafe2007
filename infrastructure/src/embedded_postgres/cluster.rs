//! The database cluster: made once by `initdb`, opened by every start after that.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
    process::Stdio,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nix::unistd::Uid;

use super::{
    binaries::Binaries,
    directory::Directory,
    error::{EmbeddedPostgresError, at},
    server_user::{ServerUser, has_name},
};

/// The role that owns everything.
pub(super) const ROLE: &str = "aihub";
/// The database that it works in.
pub(super) const DATABASE: &str = "aihub";
const UNFINISHED: &str = "data.new-";
const PASSWORD_BYTES: usize = 24;

/// The major version that wrote `data`, or `None` if nothing has yet.
pub(super) fn data_major(data: &Path) -> Result<Option<u32>, EmbeddedPostgresError> {
    let path = data.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(version) => version.trim().parse().map(Some).map_err(|_| EmbeddedPostgresError::NoDataVersion { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !data.exists() => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(EmbeddedPostgresError::NoDataVersion { path }),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// The password of the role `aihub`, as `initdb` was given it.
pub(super) fn password(directory: &Directory) -> Result<String, EmbeddedPostgresError> {
    let path = directory.path().join("password");
    match fs::read_to_string(&path) {
        Ok(password) => Ok(password),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(EmbeddedPostgresError::NoPassword { path }),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// Runs `initdb` beside the final place and then renames: what is called `data` is whole, whenever we are killed. The
/// place is a new one each time, since an `initdb` whose aihub was killed may still be writing to its own.
pub(super) async fn create(
    directory: &Directory,
    binaries: &Binaries,
    user: ServerUser,
    durable: bool,
) -> Result<(), EmbeddedPostgresError> {
    remove_unfinished(directory.path());
    let new = directory.path().join(format!("{UNFINISHED}{}", uuid::Uuid::now_v7()));
    fs::create_dir(&new).and_then(|()| user.own(&new)).map_err(at("create", &new))?;
    let password_file = "password.initdb";
    let path = directory.path().join(password_file);
    let mut file = directory.open(password_file, OpenOptions::new().write(true).truncate(true))?;
    file.write_all(new_password(directory)?.as_bytes()).and_then(|()| user.own(&path)).map_err(at("write", &path))?;

    let mut command = user.initdb(&binaries.initdb());
    command.args(["--username", ROLE, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"]);
    // The C locale sorts by code point in every version and on every system, so no index depends on the libc.
    command.arg("--pgdata").arg(&new).arg("--pwfile").arg(&path);
    if !durable {
        command.arg("--no-sync");
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let ran = tokio::process::Command::from(command).output().await;
    fs::remove_file(&path).map_err(at("remove", &path))?;
    if !ran.as_ref().is_ok_and(|output| output.status.success()) {
        // Where it could not be given a name, that is what it lacks.
        has_name(Uid::from_raw(user.uid))?;
    }
    let output = ran.map_err(at("run", binaries.initdb()))?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(EmbeddedPostgresError::Initdb { output });
    }
    let renamed = fs::rename(&new, directory.data()).and_then(|()| File::open(directory.path())?.sync_all());
    renamed.map_err(at("create", directory.data()))
}

/// As far as it goes: what is still being written to is left to the next start from nothing.
fn remove_unfinished(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED)) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Overwrites the one of a start that was killed, for its cluster does not exist.
fn new_password(directory: &Directory) -> Result<String, EmbeddedPostgresError> {
    let password = URL_SAFE_NO_PAD.encode(rand::random::<[u8; PASSWORD_BYTES]>());
    let mut file = directory.open("password", OpenOptions::new().write(true).truncate(true))?;
    let written = file.write_all(password.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(at("write", directory.path().join("password")))?;
    Ok(password)
}
