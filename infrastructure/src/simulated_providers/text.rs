//! What the simulator writes, and how it counts it. The token rule stands in `simulated_providers`.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Words of an answer whose length no knob orders.
const USUAL_TOKENS: u32 = 60;
/// The longest word of a prompt that an answer takes up, in characters.
const MAX_TOPIC_CHARS: usize = 24;

/// Each is a whole sentence for any two words of a prompt.
const SENTENCES: [&str; 8] = [
    "The short of it is that {a} depends on {b} more than it seems.",
    "Seen from close by, {a} is a matter of many small steps.",
    "Each step follows from the one before, and none of them is hard.",
    "Whoever looks at {b} for a while finds that {a} was there from the start.",
    "That is why careful people measure {a} first and explain {b} later.",
    "Nothing in this text is true of {a}; it is here to be counted.",
    "A real provider would now say more about {b}, at a price.",
    "Between {a} and {b} there is less of a gap than the books say.",
];

/// Splits off the first token: a word with the space before it.
pub(super) fn split_token(text: &str) -> Option<(&str, &str)> {
    let first = text.chars().next()?;
    let end = text[first.len_utf8()..].find(' ').map_or(text.len(), |space| space + first.len_utf8());
    Some(text.split_at(end))
}

/// The first `limit` tokens of `text`, and how many these are.
pub(super) fn cut(text: &str, limit: u32) -> (&str, u32) {
    let (mut rest, mut count) = (text, 0);
    while count < limit
        && let Some((_, after)) = split_token(rest)
    {
        rest = after;
        count += 1;
    }
    (&text[..text.len() - rest.len()], count)
}

/// Words of an input text.
pub(super) fn count_words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

/// A number that is the same for the same text, on any machine.
pub(super) fn seed(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// An answer to `prompt`, the same each time: of exactly `tokens` tokens, or of whole sentences.
pub(super) fn answer(prompt: &str, tokens: Option<u32>) -> String {
    let topics = topics(prompt);
    let a = topics.first().map_or("this", String::as_str);
    let b = topics.get(1).map_or("the rest of it", String::as_str);
    let wanted = tokens.unwrap_or(USUAL_TOKENS);
    let mut text = format!("Simulated answer, no model was asked: this is about {a} and {b}.");
    let mut written = count_words(&text);
    let first = seed(prompt);
    for round in 0u64.. {
        if written >= wanted {
            break;
        }
        let at = usize::try_from(first.wrapping_add(round * 3) % SENTENCES.len() as u64).unwrap_or_default();
        let sentence = SENTENCES[at].replace("{a}", a).replace("{b}", b);
        written += count_words(&sentence);
        let _ = write!(text, " {sentence}");
    }
    match tokens {
        Some(tokens) => cut(&text, tokens).0.to_owned(),
        None => text,
    }
}

/// What a thinking model thinks before it answers `prompt`.
pub(super) fn thinking(prompt: &str) -> String {
    let topics = topics(prompt);
    let a = topics.first().map_or("something", String::as_str);
    format!(
        "Simulated thinking: the question is about {a}, and nobody is here to think about it, so any answer will do."
    )
}

/// The last longer word of a prompt.
pub(super) fn topic(prompt: &str) -> String {
    topics(prompt).pop().unwrap_or_else(|| "value".to_owned())
}

/// The last two longer words of a prompt: there the matter tends to stand.
fn topics(prompt: &str) -> Vec<String> {
    let words = prompt.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() > 2);
    let mut topics: Vec<String> =
        words.rev().take(2).map(|word| word.chars().take(MAX_TOPIC_CHARS).collect::<String>().to_lowercase()).collect();
    topics.reverse();
    topics
}

/// A vector of length 1 that is the same for the same text and number of dimensions.
pub(super) fn embedding(text: &str, dimensions: u32) -> Vec<f32> {
    let mut vector = Vec::with_capacity(dimensions as usize);
    let seed = Sha256::digest(text.as_bytes());
    for block in 0..dimensions.div_ceil(16) {
        let digest = Sha256::new().chain_update(seed).chain_update(block.to_le_bytes()).finalize();
        // Two bytes a number: all of them are exact in an f32, and one hash gives sixteen.
        vector.extend(digest.chunks_exact(2).map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) + 0.5));
    }
    vector.truncate(dimensions as usize);
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "an embedding has single precision")]
    let scaled = vector.into_iter().map(|x| (f64::from(x) / length) as f32);
    scaled.collect()
}
