//! What a reader of JSON or of a query says of a value, in words for people: no type of ours, but what may stand there and what did.

const UNSIGNED: &str = "a whole number from 0 on";

/// `invalid type: string "x", expected u32` is `must be a whole number from 0 on, and is the text "x"`.
pub fn in_words(fault: &str) -> String {
    // serde_json says where in the value; of one value of a frame that is of no use.
    let fault = fault.rsplit_once(" at line ").map_or(fault, |(fault, _)| fault);
    let found = fault.strip_prefix("invalid type: ").or_else(|| fault.strip_prefix("invalid value: "));
    if let Some((is, must_be)) = found.and_then(|found| found.rsplit_once(", expected ")) {
        let is_whole = is
            .strip_prefix("integer `")
            .is_some_and(|number| number.bytes().next().is_some_and(|c| c.is_ascii_digit()));
        if is_whole && kind(must_be) == UNSIGNED {
            return "is too large a number".to_owned();
        }
        return format!("must be {}, and is {}", kind(must_be), value(is));
    }
    if let Some((is, must_be)) = fault.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "))
    {
        return format!("must be {must_be}, and is {is}");
    }
    if let Some(rest) = fault.strip_prefix("invalid length ")
        && let Some((length, must_be)) = rest.split_once(", expected ")
    {
        return format!("must be {}, and has {length} entries", kind(must_be));
    }
    match fault {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number from 0 on"
        }
        "number too large to fit in target type" => "is too large a number",
        "number too small to fit in target type" => "is too small a number",
        "invalid float literal" | "cannot parse float from empty string" => "must be a number",
        "input contains invalid characters"
        | "input is out of range"
        | "no possible date and time matching input"
        | "premature end of input"
        | "trailing input" => "must be a time like 2026-12-01T00:00:00Z",
        "provided string was not `true` or `false`" => "must be true or false",
        other => return other.replace("missing field ", "lacks the field ").replace("unknown field", "has no field"),
    }
    .to_owned()
}

/// What was to be a JSON object.
pub fn not_an_object(error: &serde_json::Error) -> String {
    if error.is_data() { in_words(&error.to_string()) } else { format!("is not a JSON object: {error}") }
}

fn kind(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => UNSIGNED,
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => "a whole number from 1 on",
        "a string" | "a borrowed string" | "str" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "unit" | "unit value" => "null",
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum ") => "an object",
        other if other.starts_with("string or map") => "a text or an object",
        other => other,
    }
}

fn value(found: &str) -> String {
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" | "Option value" => "null".to_owned(),
        other => ["integer ", "floating point ", "boolean ", "string "]
            .into_iter()
            .find_map(|kind| other.strip_prefix(kind))
            .map_or_else(
                || other.to_owned(),
                |value| {
                    let value = value.trim_matches('`');
                    if value.starts_with('"') { format!("the text {value}") } else { value.to_owned() }
                },
            ),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use serde::{Deserialize, de::DeserializeOwned};
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Level {
        High,
        Low,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Point {
        #[expect(dead_code, reason = "only read")]
        x: f64,
    }

    fn said<T: DeserializeOwned + std::fmt::Debug>(value: Value) -> String {
        in_words(&serde_json::from_value::<T>(value).unwrap_err().to_string())
    }

    #[test]
    fn a_fault_says_what_may_stand_there_and_what_does() {
        assert_eq!(said::<u32>(json!("x")), "must be a whole number from 0 on, and is the text \"x\"");
        assert_eq!(said::<u32>(json!(5_000_000_000_u64)), "is too large a number");
        assert_eq!(said::<u64>(json!(-1)), "must be a whole number from 0 on, and is -1");
        assert_eq!(said::<u32>(json!(1.5)), "must be a whole number from 0 on, and is 1.5");
        assert_eq!(said::<NonZeroU32>(json!(0)), "must be a whole number from 1 on, and is 0");
        assert_eq!(said::<f64>(json!([1])), "must be a number, and is a list");
        assert_eq!(said::<String>(json!({})), "must be a text, and is an object");
        assert_eq!(said::<bool>(json!("yes")), "must be true or false, and is the text \"yes\"");
        assert_eq!(said::<Vec<u8>>(json!(true)), "must be a list, and is true");
        assert_eq!(said::<Point>(json!(7)), "must be an object, and is 7");
        assert_eq!(said::<Point>(json!({})), "lacks the field `x`");
        assert_eq!(said::<Point>(json!({ "y": 1 })), "has no field `y`, expected `x`");
        assert_eq!(said::<Level>(json!("middling")), "must be `high` or `low`, and is `middling`");
        assert_eq!(in_words("invalid digit found in string"), "must be a whole number from 0 on");
        assert_eq!(in_words("something else"), "something else");
        let refused = |json: &[u8]| not_an_object(&crate::fields::Object::parse(json).err().unwrap());
        assert_eq!(refused(b"[]"), "must be a JSON object, and is a list");
        assert_eq!(refused(b"{"), "is not a JSON object: EOF while parsing an object at line 1 column 1");
    }
}
