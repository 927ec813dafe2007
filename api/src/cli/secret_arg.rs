//! Secrets as options. What stands on a command line can be read by everybody on the machine and is kept by shells, so each can
//! also come from the environment, or from a file: `@FILE` in the secret's place.

use std::fs;

use super::output::remark;
use crate::auth::secret::Secret;

/// For `value_parser`: the text itself, or what stands in the file, without what is blank at its end.
pub fn secret(text: &str) -> Result<Secret, String> {
    let Some(path) = text.strip_prefix('@') else {
        let secret = text.trim_end();
        if secret.len() < text.len() {
            // Nothing depends on whether it is read.
            let _ = remark(format_args!("a secret ends in white space, which is left out"));
        }
        return Ok(Secret::new(secret));
    };
    let read = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let read = read.trim_end();
    if read.is_empty() { Err(format!("{path} is empty")) } else { Ok(Secret::new(read)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_what_is_said_or_what_stands_in_a_file_without_its_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        fs::write(&file, "postgres://a:b@c/d\n").unwrap();
        assert_eq!(secret(&format!("@{}", file.display())).unwrap().expose(), "postgres://a:b@c/d");
        assert_eq!(secret("postgres://a:b@c/d\n").unwrap().expose(), "postgres://a:b@c/d");
        fs::write(&file, "\n").unwrap();
        assert!(secret(&format!("@{}", file.display())).unwrap_err().contains("is empty"));
        assert!(secret("@/no/such/file").unwrap_err().contains("/no/such/file"));
    }
}
