//! Files that prove themselves: nothing is asked but the file and a key.

use aihub_infrastructure::audit::{
    AuditError,
    file::{verify_bundle, write_bundle},
};
use aihub_tests::{TestDatabase, books::accepted};

use super::{a_log, sign, signing_key};

async fn bundle(database: &TestDatabase, from: u64, to: u64) -> Result<Vec<u8>, AuditError> {
    let mut file = Vec::new();
    let key = signing_key(1).verifier();
    write_bundle(&database.database, (from, to), Some(&key), &mut file).await?;
    Ok(file)
}

#[tokio::test]
async fn every_stretch_of_the_log_proves_itself_offline_and_one_event_does() {
    let (database, books) = a_log().await;
    sign(&database).await;
    books.accept("more", accepted("acme", "ann", "node", 10)).await;
    sign(&database).await;
    for (from, to) in [(1, 1), (1, 41), (5, 5), (7, 30), (39, 39), (40, 40), (41, 41)] {
        let file = bundle(&database, from, to).await.unwrap();
        let report = verify_bundle(&*file, &[signing_key(1).verifier()]).unwrap();
        assert_eq!((report.from, report.to, report.is_own_key), (from, to, false));
        assert!(verify_bundle(&*file, &[]).unwrap().is_own_key);
        assert!(verify_bundle(&*file, &[signing_key(2).verifier()]).is_err(), "another key signed nothing");
    }
    let uncovered = bundle(&database, 1, 42).await;
    assert!(matches!(uncovered, Err(AuditError::Incomplete(_))), "{uncovered:?}");
    assert!(matches!(bundle(&database, 3, 2).await, Err(AuditError::Malformed(_))));
}

#[tokio::test]
async fn no_byte_of_a_bundle_can_be_changed_and_no_line_be_missing() {
    let (database, _books) = a_log().await;
    sign(&database).await;
    let file = bundle(&database, 3, 6).await.unwrap();
    let keys = [signing_key(1).verifier()];
    verify_bundle(&*file, &keys).unwrap();
    let header = file.iter().position(|byte| *byte == b'\n').unwrap();
    // The key in the header is a convenience, and the only thing that is not proved.
    let key = String::from_utf8_lossy(&file[..header]).find("\"key\"").unwrap();
    for nth in (0..key).chain(header..file.len()) {
        for flip in [1, 0x20] {
            let mut changed = file.clone();
            changed[nth] ^= flip;
            // A hexadecimal digit may be a capital letter, and a name of a time zone a small one: they say the same.
            if !changed[nth].eq_ignore_ascii_case(&file[nth]) {
                assert!(verify_bundle(&*changed, &keys).is_err(), "{}", String::from_utf8_lossy(&changed));
            }
        }
    }
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    for nth in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(nth);
        assert!(verify_bundle(&*fewer.concat(), &keys).is_err(), "without line {nth}");
        assert!(verify_bundle(&*lines[..nth].concat(), &keys).is_err(), "up to line {nth}");
    }
    assert!(verify_bundle(&*[&*file, b"\n"].concat(), &keys).is_err());
}
