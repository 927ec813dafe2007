//! Who runs this process.

use nix::unistd::{Uid, User};

/// The name that the operating system has for the user, or the number where it has none.
pub fn os_user() -> String {
    let uid = Uid::current();
    let known = User::from_uid(uid).ok().flatten();
    known.map_or_else(|| format!("uid {uid}"), |user| user.name)
}
