use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use aihub_application::ports::provider::{FailureKind, Provider, Reached};
use aihub_domain::price::TokenUsage;
use tokio::{net::TcpListener, task::JoinSet};

use super::*;
use crate::{
    providers::{
        http::ProviderHttp,
        openai::{OpenAiOptions, OpenAiProvider},
        tests::replay::recorded,
    },
    simulated_providers::cases::{self, cut::serve},
};

#[test]
fn numbers_and_base64_are_both_read() {
    let (_, base64) = recorded("openai/embeddings-base64.json").remove(0);
    let read_base64 = read(base64.body.as_bytes(), 1).unwrap();
    assert_eq!(read_base64.vectors[0].len(), 1536);
    let norm: f32 = read_base64.vectors[0].iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-3, "OpenAI's vectors have length 1, this has {norm}");
    assert_eq!(read_base64.model.as_deref(), Some("text-embedding-3-small"));
    assert_eq!(read_base64.usage, Some(TokenUsage { input: 9, ..TokenUsage::default() }));

    let (_, numbers) = recorded("openai/embeddings-float-dimensions.json").remove(0);
    assert_eq!(read(numbers.body.as_bytes(), 1).unwrap().vectors[0][..2], [-0.060_699_463, -0.006_393_432_6]);
    let (_, local) = recorded("local/llamacpp-embeddings.json").remove(0);
    let local = read(local.body.as_bytes(), 2).unwrap();
    assert_eq!(local.vectors.iter().map(Vec::len).collect::<Vec<_>>(), [384, 384]);
}

#[test]
fn vectors_are_put_into_the_inputs_order() {
    let body = r#"{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":"AACAPw=="}]}"#;
    let read = read(body.as_bytes(), 2).unwrap();
    assert_eq!(read.vectors, [[1.0], [2.0]]);
    assert_eq!(read.usage, None);
}

#[test]
fn vectors_without_indices_that_name_each_input_once_are_taken_in_their_order() {
    for indices in
        [["", ""], [r#""index":0,"#, r#""index":0,"#], [r#""index":1,"#, r#""index":2,"#], ["", r#""index":0,"#]]
    {
        let [first, second] = indices.map(|index| format!(r#"{{{index}"embedding":"#));
        let body = format!(r#"{{"data":[{first}[1]}},{second}["2.0"]}}]}}"#);
        assert_eq!(read(body.as_bytes(), 2).unwrap().vectors, [[1.0], [2.0]], "{body}");
    }
}

#[test]
fn an_answer_that_does_not_fit_the_inputs_is_refused() {
    for (body, inputs) in [
        (r#"{"data":[{"index":0,"embedding":[1]}]}"#, 2),
        (r#"{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1]}]}"#, 1),
        (r#"{"data":[{"index":0,"embedding":[]}]}"#, 1),
        (r#"{"data":[{"index":0,"embedding":"AACA"}]}"#, 1),
        (r#"{"data":[{"index":0,"embedding":"%"}]}"#, 1),
    ] {
        assert_eq!(read(body.as_bytes(), inputs).unwrap_err().kind, FailureKind::Malformed, "{body}");
    }
    assert_eq!(read(br#"{"object":"list","data":[]}"#, 1).unwrap_err().kind, FailureKind::Empty);
    let flaw = read(br#"{"data":[{"embedding":[1]},{"embedding":null}]}"#, 2).unwrap_err().flaw.unwrap();
    assert_eq!(flaw.field.as_deref(), Some("data[1].embedding"));
    let error = read(br#"{"error":{"message":"no","code":"insufficient_quota"}}"#, 1).unwrap_err();
    assert_eq!((error.kind, error.status), (FailureKind::QuotaExceeded, Some(200)));
}

#[tokio::test]
async fn every_bad_day_of_embeddings_means_what_its_table_says_wherever_it_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cases, at) = (cases::of_embeddings(), Arc::new(AtomicUsize::new(0)));
    let mut server = JoinSet::new();
    server.spawn(serve(listener, cases, at.clone()));
    assert!(cases.len() > 10, "{}", cases.len());
    let inputs = Arc::new(vec!["a cat".to_owned(), "a dog".to_owned()]);
    for case in cases {
        let http = ProviderHttp::new(format!("http://{address}/{}", case.name), None);
        let provider = OpenAiProvider::new(&http, OpenAiOptions::default()).unwrap();
        for cut in 0..case.body.len() {
            at.store(cut, Relaxed);
            let (inputs, reached) = (inputs.clone(), Reached::default());
            let call = EmbedCall { request_id: "r".into(), model: "mini".into(), inputs, user: None, reached };
            let says = match provider.embed(call).await {
                Ok(Embeddings { vectors, usage, .. }) => {
                    let numbers = |vector: &Vec<f32>| vector.iter().map(f32::to_string).collect::<Vec<_>>().join(" ");
                    let vectors = vectors.iter().map(|vector| format!("vector {}\n", numbers(vector)));
                    vectors.chain(usage.map(|usage| format!("usage {}\n", usage.input))).collect()
                }
                Err(error) => format!("error {:?}\n", error.kind),
            };
            assert_eq!(says, case.says, "{} cut at {cut}", case.name);
        }
    }
}
