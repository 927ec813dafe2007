//! The relay: every event at least once, in order, whatever becomes of brokers and nodes.

use std::{collections::BTreeMap, sync::Arc};

use aihub_infrastructure::{event_store::reader, kafka::relay};
use aihub_tests::{
    PATIENCE, TestDatabase,
    app::TestApp,
    books::Books,
    client::chat,
    database,
    kafka::{MockKafka, Stored, publish, published, stored},
    log::{Node, lone_unit},
    until,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_util::task::TaskTracker;

use crate::privacy::disguises;

async fn append(database: &TestDatabase, events: u64) {
    let node = Node::start(&database.database);
    for aggregate_type in
        ["request", "account", "video", "period"].iter().cycle().take(usize::try_from(events).unwrap())
    {
        let mut lone = lone_unit();
        lone.streams[0].aggregate_type = aggregate_type;
        node.append(lone).await.unwrap();
    }
}

async fn head(database: &TestDatabase) -> u64 {
    reader::head(database.pool()).await.unwrap().position
}

/// Ends the connection of whoever has the relay's turn.
async fn kill_relay(database: &TestDatabase) {
    let killed = "SELECT pg_terminate_backend(runner_pid) FROM subscriptions WHERE runner_pid IS NOT NULL";
    sqlx::query(killed).execute(database.pool()).await.unwrap();
}

#[tokio::test]
async fn every_event_is_published_in_order_by_one_of_two_nodes_whose_connections_are_killed() {
    let (database, kafka) = (database().await, MockKafka::start());
    let (one, _, _one) = publish(&database, &kafka.cluster);
    let (_other, _, _other_guard) = publish(&database, &kafka.cluster);
    append(&database, 40).await;
    one.wait_for(relay::NAME, 40, PATIENCE).await.unwrap();
    let messages = published(&kafka.cluster, 40).await;
    assert_eq!(messages.len(), 40, "one of the two has the turn, so nothing comes twice");
    for round in 1..=4 {
        append(&database, 40).await;
        kill_relay(&database).await;
        append(&database, 40).await;
        one.wait_for(relay::NAME, 40 + 80 * round, PATIENCE).await.unwrap();
    }
    let messages = published(&kafka.cluster, 360).await;
    let mut by_topic: BTreeMap<&str, usize> = BTreeMap::new();
    for message in &messages {
        *by_topic.entry(message.topic.rsplit_once('.').unwrap().1).or_default() += 1;
    }
    assert_eq!(by_topic.keys().copied().collect::<Vec<_>>(), ["accounts", "audit", "requests", "videos"]);
}

#[tokio::test]
async fn an_aggregates_events_come_in_their_own_order() {
    let (database, kafka) = (database().await, MockKafka::start());
    let books = Books::open(Node::start(&database.database));
    for account in ["acme", "globex", "initech"] {
        books.grant(account, 100_000).await;
    }
    books.trade(0..40).await;
    let (_relay, _, _guard) = publish(&database, &kafka.cluster);
    let mut sequences: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for event in published(&kafka.cluster, head(&database).await).await.iter().map(Stored::event) {
        sequences.entry((event.aggregate_type, event.aggregate_id)).or_default().push(event.sequence);
    }
    assert!(sequences.values().any(|sequences| sequences.len() > 20));
    for (aggregate, sequences) in sequences {
        assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>(), "{aggregate:?}");
    }
}

#[tokio::test]
async fn errors_of_the_broker_lose_nothing() {
    let (database, kafka) = (database().await, MockKafka::start());
    let (relay, _, _guard) = publish(&database, &kafka.cluster);
    for (round, error) in (1..).zip([
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
    ]) {
        kafka.mock.request_errors(RDKafkaApiKey::Produce, &[error; 3]);
        append(&database, 30).await;
        relay.wait_for(relay::NAME, 30 * round, PATIENCE).await.unwrap();
        kafka.mock.clear_request_errors(RDKafkaApiKey::Produce);
    }
    published(&kafka.cluster, 180).await;
}

#[tokio::test]
async fn a_broker_that_is_down_delays_and_loses_nothing_while_requests_go_on() {
    let kafka = MockKafka::start();
    let app = TestApp::start(|config| {
        config.kafka.brokers = Some(kafka.cluster.brokers.clone());
        config.kafka.topic_prefix = kafka.cluster.topic_prefix.clone();
        config.kafka.delivery_timeout_ms = 1_000;
    })
    .await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    published(&kafka.cluster, head(&app.database).await).await;

    kafka.mock.broker_down(1).unwrap();
    for id in ["b", "c", "d"] {
        client.ask(&chat(id, "Why is the sky blue?")).await.done();
    }
    let notice = until("the node says that Kafka is away", async || {
        let (status, _, ready) = app.get("/health/ready", None).await;
        assert_eq!(status, 200, "Kafka is behind the log: {ready}");
        ready["notices"].as_array().unwrap().iter().find_map(|notice| {
            notice.as_str().unwrap().starts_with("Kafka is unreachable since 20").then(|| notice.clone())
        })
    });
    notice.await;
    client.ask(&chat("e", "Why is the sky blue?")).await.done();

    kafka.mock.broker_up(1).unwrap();
    published(&kafka.cluster, head(&app.database).await).await;
    until("the node says no more that Kafka is away", async || {
        let (_, _, ready) = app.get("/health/ready", None).await;
        (!ready.to_string().contains("unreachable")).then_some(())
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn what_kafka_never_takes_is_named_among_the_dead_letters_and_all_else_goes_on() {
    let (database, mut kafka) = (database().await, MockKafka::start());
    kafka.cluster.max_message_bytes = 100_000;
    append(&database, 4).await;
    // Of another program: ours are never so large.
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ('other', 'large', 1, 'SomethingLarge', '1', json_build_object('canary', repeat('x', 200000)), '{}')",
    )
    .execute(database.pool())
    .await
    .unwrap();
    append(&database, 4).await;
    let (relay, reachability, guard) = publish(&database, &kafka.cluster);
    relay.wait_for(relay::NAME, 9, PATIENCE).await.unwrap();

    let topics = kafka.cluster.topics();
    let mut positions: Vec<u64> =
        stored(&kafka.cluster, &topics.of_events()).await.iter().map(Stored::position).collect();
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions, [1, 2, 3, 4, 6, 7, 8, 9]);
    let letters = stored(&kafka.cluster, &[&topics.dead_letters]).await;
    assert_eq!((letters.len(), letters[0].position(), letters[0].key.as_str()), (1, 5, "large"));
    assert_eq!(letters[0].headers["topic"], topics.audit);
    assert!(letters[0].headers["reason"].contains("kafka.max_message_bytes"), "{:?}", letters[0].headers);
    assert!(letters[0].text.contains(r#""dataref":"urn:aihub:event:5""#) && !letters[0].text.contains("canary"));
    assert_eq!(reachability.notice(), None);

    // It is published again once it may be larger.
    drop(guard);
    let mut larger = kafka.cluster.clone();
    larger.max_message_bytes = 400_000;
    let (_relay, _, _guard) = publish(&database, &larger);
    assert!(!relay::publish_again_from(database.pool(), 11).await.unwrap(), "it has not come so far");
    assert!(relay::publish_again_from(database.pool(), 5).await.unwrap());
    until("it is published", async || {
        let events = stored(&kafka.cluster, &topics.of_events()).await;
        events.iter().any(|message| message.position() == 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_that_was_changed_behind_our_back_is_not_published() {
    let (database, kafka) = (database().await, MockKafka::start());
    append(&database, 3).await;
    for change in [
        "ALTER TABLE events DISABLE TRIGGER events_are_append_only",
        r#"UPDATE events SET payload = '{"nth":9}' WHERE position = 2"#,
    ] {
        sqlx::query(change).execute(database.pool()).await.unwrap();
    }
    let (relay, _, _guard) = publish(&database, &kafka.cluster);
    let stopped = relay.wait_for(relay::NAME, 3, PATIENCE).await.unwrap_err().to_string();
    assert!(stopped.contains("the content at position 2 is not what was recorded"), "{stopped}");
    assert_eq!(stored(&kafka.cluster, &kafka.cluster.topics().of_events()).await.len(), 1);
}

#[tokio::test]
async fn no_content_is_in_kafka_not_even_sealed() {
    const MARKER: &str = "goldcrest4711";
    let kafka = MockKafka::start();
    let app = TestApp::start(|config| {
        config.kafka.brokers = Some(kafka.cluster.brokers.clone());
        config.kafka.topic_prefix = kafka.cluster.topic_prefix.clone();
    })
    .await;
    let mut client = app.connect("ann").await;
    let answer = client.ask(&chat("a", &format!("Tell me all about the {MARKER}"))).await;
    assert!(answer.text().contains(MARKER), "the answer has it too");
    let events = published(&kafka.cluster, head(&app.database).await).await;
    assert!(events.iter().any(|message| message.text.contains("\"keep\":\"sealed\"")), "it is named");
    let sealed: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT bytes FROM contents").fetch_all(app.database.pool()).await.unwrap();
    assert_eq!(sealed.len(), 2);
    for message in events {
        for bytes in &sealed {
            assert!(!message.text.contains(&STANDARD.encode(&bytes[..24])), "what is sealed stays here");
        }
        let haystack = format!("{message:?}").to_lowercase();
        for disguise in disguises(MARKER) {
            assert!(!haystack.contains(&disguise.to_lowercase()), "{disguise} in {haystack}");
        }
    }
    app.stop().await;
}

/// Several events of one position, as an upcaster gives them, are the one that is stored.
#[tokio::test]
async fn events_of_former_versions_are_published_as_they_are_stored() {
    use aihub_infrastructure::event_store::{
        subscription::Subscriptions,
        upcast::{Upcasted, Upcasters},
    };
    use aihub_infrastructure::kafka::{reachability::Reachability, relay::KafkaRelay};
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    let (database, kafka) = (database().await, MockKafka::start());
    append(&database, 6).await;
    let upcasters = Upcasters::default().with("CreditsGranted", "1", |payload| {
        let of = |event_type: &str| Upcasted {
            event_type: event_type.to_owned(),
            event_version: "2".to_owned(),
            payload: payload.clone(),
        };
        vec![of("AccountOpened"), of("CreditsGranted")]
    });
    let shutdown = CancellationToken::new();
    let _guard = shutdown.clone().drop_guard();
    let subscriptions =
        Subscriptions::start(database.database.clone(), Arc::new(upcasters), TaskTracker::new(), shutdown.clone());
    let reachability = Reachability::new(Arc::new(aihub_application::ports::clock::SystemClock));
    subscriptions.run(Arc::new(KafkaRelay::new(kafka.cluster.clone(), reachability, shutdown).unwrap()));
    let messages = published(&kafka.cluster, 6).await;
    assert!(messages.iter().all(|message| message.event().event_version == "1"));
}

/// What the node says of Kafka, once it says this.
async fn notice(app: &TestApp, says: &str) -> String {
    until(says, async || {
        let (status, _, ready) = app.get("/health/ready", None).await;
        assert_eq!(status, 200, "{ready}");
        let notices = ready["notices"].as_array().unwrap().iter().filter_map(Value::as_str);
        notices.filter(|notice| notice.contains("Kafka")).find(|notice| notice.contains(says)).map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn what_is_wrong_with_a_cluster_is_named_and_since_when() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let no_kafka = listener.local_addr().unwrap().to_string();
    let serving = TaskTracker::new().spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
        }
    });
    for (brokers, says) in [
        ("127.0.0.1:1", "nobody listens there"),
        ("no-such-host.invalid:9092", "the brokers' host has no address"),
        (&no_kafka, "another protocol"),
    ] {
        let app = TestApp::start(|config| config.kafka.brokers = Some(brokers.to_owned())).await;
        assert!(notice(&app, says).await.starts_with("Kafka is unreachable since 20"), "{brokers}");
        app.stop().await;
    }
    serving.abort();
}

#[tokio::test]
async fn brokers_that_answer_and_let_no_topic_be_made_are_known_as_such_and_since_when() {
    let mock = MockCluster::new(1).unwrap();
    // It knows no topic of this name, and makes none: of what an administrator asks it answers nothing.
    let app = TestApp::start(|config| {
        config.kafka.brokers = Some(mock.bootstrap_servers());
        config.kafka.topic_prefix = "nobodys".to_owned();
        config.kafka.delivery_timeout_ms = 1_000;
    })
    .await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    let first = notice(&app, "Kafka answers and takes no events since 20").await;
    assert!(first.contains("(our topics are missing and cannot be made)"), "{first}");
    client.ask(&chat("b", "Why is the sky blue?")).await.done();
    let since = |notice: &str| notice.split(" (").next().unwrap().to_owned();
    assert_eq!(since(&notice(&app, "takes no events").await), since(&first));
    app.stop().await;
}
