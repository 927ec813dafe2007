use super::*;
use crate::event_store::chain::{self, ChainHead};

fn event(payload: &str, metadata: &str) -> RecordedEvent {
    let mut event = RecordedEvent {
        position: 1,
        recorded_at: DateTime::from_timestamp_micros(1_795_456_800_000_001).unwrap(),
        aggregate_type: "account".to_owned(),
        aggregate_id: "acme \"ü\"".to_owned(),
        sequence: 7,
        event_type: "CreditsGranted".to_owned(),
        event_version: "1.0".to_owned(),
        payload: payload.to_owned(),
        metadata: metadata.to_owned(),
        command_id: Some(Uuid::from_u128(7)),
        leaf_hash: Hash::default(),
        chain_hash: Hash::default(),
    };
    event.leaf_hash = event.leaf().hash();
    event.chain_hash = ChainHead::GENESIS.next_hash(event.recorded_at, &event.leaf_hash);
    event
}

#[test]
fn an_event_comes_back_to_the_byte_whatever_its_text_looks_like() {
    for payload in [
        r#"{"a":1}"#,
        r#"{ "nth": 1, "note": "ü€ \" \u00e9 \ud83d\ude00", "n": 1.50e+3, "big": 123456789012345678901234567890 }"#,
        "  {\"a\":1}\n",
        r#"{"lone":"\ud800"}"#,
        "null",
        "[]",
    ] {
        for metadata in ["{}", r#"{ "actor": "ann \"the\" \\ ü", "correlationId":"c-1" }"#] {
            let sent = event(payload, metadata);
            let read = decode(&encode("/aihub", &sent).unwrap()).unwrap();
            assert_eq!(read, sent);
            chain::verify(ChainHead::GENESIS, [&read]).unwrap();
        }
    }
}

#[test]
fn an_event_is_a_cloud_event_with_lower_case_attributes_of_simple_types() {
    let sent = event(r#"{"a":1}"#, r#"{"correlationId":"c-1"}"#);
    let read: serde_json::Value = serde_json::from_slice(&encode("/aihub", &sent).unwrap()).unwrap();
    let attributes = read.as_object().unwrap();
    for (name, value) in attributes {
        assert!(name == "data" || value.is_string(), "{name}");
        assert!(
            name == "data" || name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
            "{name}"
        );
    }
    assert_eq!(read["specversion"], "1.0");
    assert_eq!(read["type"], "aihub.account.CreditsGranted");
    assert_eq!(read["sequence"], "0000000000000000007");
    assert_eq!(read["correlationid"], "c-1");
    assert_eq!(read["time"], "2026-11-23T18:00:00.000001Z");
    assert_eq!(read["data"]["a"], 1);
}

#[test]
fn a_reference_says_everything_but_the_data() {
    let sent = event(r#"{"secret":1}"#, "{}");
    let text = String::from_utf8(encode_reference("/aihub", &sent).unwrap()).unwrap();
    assert!(!text.contains("secret"), "{text}");
    assert!(text.contains(r#""dataref":"urn:aihub:event:1""#), "{text}");
    assert!(matches!(decode(text.as_bytes()), Err(CloudEventError::Attribute("data"))));
}

#[test]
fn what_is_no_event_of_ours_is_told_by_what_is_wrong_with_it() {
    let good = String::from_utf8(encode("/aihub", &event("{}", "{}")).unwrap()).unwrap();
    for (from, to) in [
        (r#""position":"1""#, r#""position":"-1""#),
        (r#""time":"2026"#, r#""time":"x"#),
        (r#""leafhash":""#, r#""leafhash":"é"#),
        ("aihub.account.", "com.example."),
    ] {
        assert!(good.contains(from), "{good}");
        assert!(matches!(decode(good.replace(from, to).as_bytes()), Err(CloudEventError::Attribute(_))), "{to}");
    }
    assert!(matches!(decode(b"hello"), Err(CloudEventError::Malformed(_))));
}
