//! How much memory a JSON text takes once it is read, before it is. Most of what clients send is text and takes little more
//! than its bytes; but an object of one short field takes hundreds of them, and a text may be made of nothing else.

/// What `serde_json` allocates for an object with a field: a node of a B-tree, with room for eleven.
const OBJECT_BYTES: usize = 640;
/// Another field: its name, and its part of the further nodes, which are half full in the worst case.
const FIELD_BYTES: usize = 112;
/// A list with an entry: room for four.
const LIST_BYTES: usize = 128;
/// Another entry. A list that grows has room for twice as many.
const ENTRY_BYTES: usize = 64;

/// About how many bytes the values in `json` take, an object with all that it has. What it is an object of costs nothing but
/// its text: its own fields are few, or not kept. For a text that is no JSON it is anything, since such a text is not read.
pub fn bytes_once_read(json: &[u8]) -> usize {
    let (mut bytes, mut depth) = (json.len(), 0_usize);
    let mut rest = json.iter();
    while let Some(byte) = rest.next() {
        bytes += match byte {
            b'"' => {
                while let Some(inside) = rest.next() {
                    match inside {
                        b'"' => break,
                        b'\\' => _ = rest.next(),
                        _ => {}
                    }
                }
                0
            }
            b'{' => {
                depth += 1;
                if depth > 1 { OBJECT_BYTES } else { 0 }
            }
            b'[' => {
                depth += 1;
                LIST_BYTES
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                0
            }
            b':' if depth > 1 => FIELD_BYTES,
            b',' if depth > 1 => ENTRY_BYTES,
            _ => 0,
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn weight(json: &str) -> usize {
        bytes_once_read(json.as_bytes())
    }

    #[test]
    fn a_long_text_weighs_what_it_is_long_and_many_small_parts_weigh_a_multiple() {
        let text = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, r#"a\\\"{[,:"#.repeat(100_000));
        assert!(weight(&text) < text.len() + 2_000, "{} {}", weight(&text), text.len());
        let parts =
            format!(r#"{{"messages":[{{"role":"user","content":[{}{{}}]}}]}}"#, r#"{"text":""},"#.repeat(10_000));
        assert!(weight(&parts) > 60 * parts.len());
        let unknown = format!(r#"{{{}"z":0}}"#, r#""u":0,"#.repeat(10_000));
        assert_eq!(weight(&unknown), unknown.len());
    }

    /// What a value has allocated, about, as the library's own types say.
    fn allocated(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len().max(8),
            Value::Array(list) => list.capacity() * size_of::<Value>() + list.iter().map(allocated).sum::<usize>(),
            Value::Object(fields) => {
                let nodes = if fields.is_empty() { 0 } else { fields.len().div_ceil(6) };
                let node = 11 * (size_of::<String>() + size_of::<Value>()) + 16;
                nodes * node + fields.iter().map(|(name, value)| name.len().max(8) + allocated(value)).sum::<usize>()
            }
            _ => 0,
        }
    }

    #[test]
    fn nothing_weighs_less_than_it_takes() {
        for inner in [
            r#"{"text":""}"#,
            r#"{"type":"text","text":"hello"}"#,
            "[]",
            "[0]",
            r#"[[["",""]]]"#,
            r#"{"a":{"b":{"c":{}}}}"#,
            "0",
            r#""""#,
            r#"{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"j":1,"k":2,"l":3,"m":4}"#,
        ] {
            let json = format!(r#"{{"tools":[{}]}}"#, vec![inner; 3_000].join(","));
            let value: Value = serde_json::from_str(&json).unwrap();
            assert!(weight(&json) >= allocated(&value), "{inner}: {} {}", weight(&json), allocated(&value));
        }
    }
}
