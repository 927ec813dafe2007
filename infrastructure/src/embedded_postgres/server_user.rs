//! Who PostgreSQL runs as: `initdb` and `postgres` refuse root.

use std::{
    env, fs, io,
    os::unix::{
        fs::{MetadataExt, lchown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use nix::unistd::{Uid, User};

use super::error::EmbeddedPostgresError;

/// Names of the accounts that root hands PostgreSQL to, in this order.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// By its number, which systems agree on.
const NOBODY: &str = "--map-user=65534";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerUser {
    pub(super) uid: u32,
    gid: u32,
    /// We are root, and are to become this user before anything of PostgreSQL runs.
    switch: bool,
}

/// `initdb` wants its user to have a name, which an arbitrary one that a cluster of containers picks has not.
pub(super) fn has_name(uid: Uid) -> Result<Uid, EmbeddedPostgresError> {
    match User::from_uid(uid) {
        Ok(None) => Err(EmbeddedPostgresError::NamelessUser { uid: uid.as_raw() }),
        // PostgreSQL says itself what is wrong where nobody can look.
        Ok(Some(_)) | Err(_) => Ok(uid),
    }
}

impl ServerUser {
    /// The current user or, for root, whoever owns the cluster in `data` already, so that `sudo aihub` after `aihub`
    /// leaves nothing behind that the next `aihub` could not read.
    pub(super) fn of(data: &Path) -> Result<Self, EmbeddedPostgresError> {
        if !Uid::effective().is_root() {
            let uid = Uid::effective().as_raw();
            return Ok(Self { uid, gid: nix::unistd::Gid::effective().as_raw(), switch: false });
        }
        match fs::metadata(data) {
            Ok(owner) if owner.uid() != 0 => Ok(Self { uid: owner.uid(), gid: owner.gid(), switch: true }),
            _ => UNPRIVILEGED
                .iter()
                .find_map(|name| User::from_name(name).ok().flatten())
                .map(|user| Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), switch: true })
                .ok_or(EmbeddedPostgresError::NoUnprivilegedUser),
        }
    }

    /// A command that runs as this user in a process group of its own, so that Ctrl-C in a terminal reaches aihub alone
    /// and the requests are drained before the database goes. It gets no environment but `PATH` and
    /// `LD_LIBRARY_PATH`: ours may hold keys of providers, and a stray `PGDATA` or `PGOPTIONS` must not decide anything.
    pub(super) fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env_clear().env("LC_ALL", "C").current_dir("/").process_group(0).stdin(Stdio::null());
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// The same of `initdb`, which alone wants its user to have a name: who has none is `nobody` to it, in a namespace of
    /// users, where the machine allows one. What it makes belongs to the user all the same.
    pub(super) fn initdb(self, program: &Path) -> Command {
        if self.switch || has_name(Uid::from_raw(self.uid)).is_ok() {
            return self.command(program);
        }
        let mut command = self.command("unshare");
        command.args(["--user", NOBODY]).arg(program);
        command
    }

    /// Gives `path` itself (not what a link points to) to this user.
    pub(super) fn own(self, path: &Path) -> io::Result<()> {
        if self.switch { lchown(path, Some(self.uid), Some(self.gid)) } else { Ok(()) }
    }

    /// Whether this user may enter `path`. The kernel is asked, since modes alone do not tell (ACLs, mounts).
    pub(super) fn may_enter(self, path: &Path) -> io::Result<bool> {
        if !self.switch {
            return Ok(true);
        }
        let status =
            self.command("/bin/sh").args(["-c", "cd -- \"$1\"", "sh"]).arg(path).stderr(Stdio::null()).status()?;
        Ok(status.success())
    }

    /// Whether becoming this user takes root's rights, which is so when we are root.
    pub(super) fn is_switched_to(self) -> bool {
        self.switch
    }

    /// Sends `signal` (a name such as `INT`) with the rights of this user, so that a process id which was reused by
    /// someone else's process is not hit. A process that has gone meanwhile is no error.
    pub(super) fn signal(self, signal: &str, pid: u32) -> io::Result<()> {
        let mut command = self.command("/bin/sh");
        command.args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &pid.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_name_is_nobody_to_initdb_and_themselves_to_everything_else() {
        let nameless = ServerUser { uid: 4_123_456_789, gid: 0, switch: false };
        let initdb = nameless.initdb(Path::new("/bin/initdb"));
        assert_eq!(initdb.get_program(), "unshare");
        assert_eq!(initdb.get_args().collect::<Vec<_>>(), ["--user", NOBODY, "/bin/initdb"]);
        assert_eq!(nameless.command("/bin/postgres").get_program(), "/bin/postgres");
        let named = ServerUser { uid: Uid::effective().as_raw(), ..nameless };
        assert_eq!(named.initdb(Path::new("/bin/initdb")).get_program(), "/bin/initdb");
    }
}
