use super::{state::CHUNK_BYTES, *};
use crate::shares::{Holder, Portions, Scope, Share};

const MAX_BYTES: usize = 2 << 20;

fn answer(share: &Arc<Share>) -> Answer {
    let ann = Holder::Principal { user: "ann".into(), account: "ann".into() };
    Answer::new(share.take(ann, RUNNING_BYTES).unwrap(), MAX_BYTES)
}

fn any_answer() -> Answer {
    answer(&Share::new("bytes", Portions::of(64 << 20)))
}

fn text(item: Option<AnswerItem>) -> String {
    match item {
        Some(AnswerItem::Chunk(chunk)) => format!("{}:{}", chunk.seq, chunk.text),
        Some(AnswerItem::Queued { position }) => format!("queued {position}"),
        Some(AnswerItem::Vectors(part)) => format!("{}:{:?}", part.seq, part.vectors),
        Some(AnswerItem::End(_)) => "end".into(),
        None => "nothing".into(),
    }
}

#[tokio::test]
async fn a_reader_that_comes_back_reads_on_after_the_chunk_it_had() {
    let answer = any_answer();
    answer.push("a".into(), vec![]).unwrap();
    answer.push("b".into(), vec![]).unwrap();
    let mut reader = answer.read(1);
    assert_eq!(text(reader.next().await), "2:b");
    answer.push("c".into(), vec![]).unwrap();
    assert_eq!(text(reader.next().await), "3:c");
    answer.end(AnswerEnd::Failed(GatewayError::ShuttingDown.into()));
    assert_eq!(text(reader.next().await), "end");
    assert_eq!(text(reader.next().await), "nothing");
}

#[tokio::test]
async fn the_fragments_of_a_tool_call_are_joined() {
    let answer = any_answer();
    let fragment = |id: Option<&str>, arguments: &str| ToolCallDelta {
        broken: None,
        index: 0,
        id: id.map(Into::into),
        name: id.map(|_| "f".into()),
        arguments: arguments.into(),
    };
    answer.push(String::new(), vec![fragment(Some("call_1"), "{\"a\"")]).unwrap();
    answer.push(String::new(), vec![fragment(None, ":1}")]).unwrap();
    assert_eq!(answer.collect().1[0].arguments, "{\"a\":1}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_within_the_grace_has_not_left() {
    let answer = Arc::new(any_answer());
    drop(answer.read(0));
    let waiting = answer.clone();
    let left = async move { waiting.left(Duration::from_secs(10)).await };
    tokio::pin!(left);
    assert!(tokio::time::timeout(Duration::from_secs(5), &mut left).await.is_err());
    let reader = answer.read(0);
    assert!(tokio::time::timeout(Duration::from_mins(1), &mut left).await.is_err());
    drop(reader);
    assert!(tokio::time::timeout(Duration::from_secs(11), &mut left).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_grace_counts_from_the_last_time_that_the_client_left() {
    let answer = any_answer();
    drop(answer.read(0));
    let left = answer.left(Duration::from_secs(10));
    tokio::pin!(left);
    assert!(tokio::time::timeout(Duration::from_secs(9), &mut left).await.is_err());
    drop(answer.read(0));
    assert!(tokio::time::timeout(Duration::from_secs(9), &mut left).await.is_err());
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut left).await.is_ok());
}

#[test]
fn chunks_count_with_what_they_take_besides_their_text_for_as_long_as_anybody_can_read_them() {
    let share = Share::new("bytes", Portions::of(4 << 20));
    let answer = answer(&share);
    let pushed = (0..1_000_000).take_while(|_| answer.push("a".into(), vec![]).is_ok()).count();
    assert!((7_000..=(1 << 20) / (CHUNK_BYTES + 1)).contains(&pushed), "{pushed}");
    assert!(matches!(answer.cover(), Err(Full::Memory(UsedUp { scope: Scope::User, .. }))));
    answer.end(AnswerEnd::Failed(GatewayError::ShuttingDown.into()));
    assert_eq!(share.taken(), (pushed + 1) * (CHUNK_BYTES + 1) + ENDED_BYTES);
    drop(answer);
    assert_eq!(share.taken(), 0);
}

#[test]
fn an_answer_is_no_longer_than_any_answer_may_be() {
    let answer = any_answer();
    assert_eq!(answer.push("a".repeat(MAX_BYTES), vec![]), Ok(()));
    assert_eq!(answer.push("a".into(), vec![]), Err(Full::TooLong));
}

#[test]
fn what_a_provider_says_at_once_comes_in_chunks_that_let_what_is_small_pass() {
    let answer = any_answer();
    let text = "é".repeat(LONGEST_CHUNK) + "!";
    answer.push(text.clone(), vec![]).unwrap();
    let chunks: Vec<_> = (0..).map_while(|nth| answer.chunk(nth)).collect();
    assert!(chunks.len() == 3 && chunks.iter().all(|chunk| chunk.text.len() <= LONGEST_CHUNK), "{}", chunks.len());
    assert_eq!(chunks.iter().map(|chunk| chunk.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(answer.collect().0, text);
}

#[test]
fn what_is_gathered_comes_in_short_chunks_and_takes_what_it_is_long() {
    let share = Share::new("bytes", Portions::of(64 << 20));
    let answer = answer(&share);
    let deltas = 50_000;
    for _ in 0..deltas {
        answer.gather("é ", vec![]).unwrap();
    }
    answer.gather(&"é".repeat(LONGEST_CHUNK), vec![]).unwrap();
    assert!(answer.chunk(0).is_none(), "nothing is shown before it is whole");
    answer.show_gathered();
    let chunks: Vec<_> = (0..).map_while(|nth| answer.chunk(nth)).collect();
    assert!(chunks.iter().all(|chunk| chunk.text.len() <= LONGEST_CHUNK));
    let text = "é ".repeat(deltas) + &"é".repeat(LONGEST_CHUNK);
    assert_eq!(answer.collect().0, text);
    answer.end(AnswerEnd::Failed(GatewayError::ShuttingDown.into()));
    assert_eq!(share.taken(), text.len() + chunks.len() * CHUNK_BYTES + ENDED_BYTES);
}
