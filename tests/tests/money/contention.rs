//! One account, two nodes that both keep it busy.

use std::sync::Arc;

use aihub_application::{accounts::Accounts, ports::event_log::EventLog};
use aihub_domain::{
    account::{Account, AccountError, command::AccountCommand, event::AccountEvent},
    money::{Microcredits, PicoUsd},
    price::Charge,
};
use aihub_infrastructure::event_store::writer::WriterOptions;
use aihub_tests::{database, log::Node};
use chrono::DateTime;
use cqrs_es::Aggregate;
use futures::future::join_all;

const CALLERS: usize = 16;
const ROUNDS: usize = 25;

/// Reserves and settles, again and again. Returns how often there were credits enough.
async fn spend(accounts: &Accounts, name: String) -> usize {
    let at = DateTime::UNIX_EPOCH;
    let metadata = Arc::default();
    let mut opened = 0;
    for round in 0..ROUNDS {
        let reservation_id = format!("{name}-{round}");
        let reserve = AccountCommand::ReserveCredits {
            reservation_id: reservation_id.clone(),
            amount: Microcredits(100),
            at_least: Microcredits(100),
            reserved_at: at,
        };
        match accounts.execute("acme", &reserve, &|_| Ok(vec![]), &metadata).await {
            Ok(_) => opened += 1,
            Err(aihub_application::accounts::ExecuteError::Refused(AccountError::InsufficientCredits { .. })) => {
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        let charge = Charge { price_id: None, cost: PicoUsd(0), list: Microcredits(1), amount: Microcredits(1) };
        let settle = AccountCommand::SettleReservation { reservation_id, charge, settled_at: at };
        accounts.execute("acme", &settle, &|_| Ok(vec![]), &metadata).await.unwrap();
    }
    opened
}

#[tokio::test]
async fn two_nodes_that_keep_one_account_busy_both_get_on_and_no_event_states_a_wrong_balance() {
    let database = database().await;
    let nodes = [(); 2].map(|()| Node::start_with(&database.database, WriterOptions::default()));
    let accounts = nodes.each_ref().map(|node| Accounts::new(node.log.clone()));
    let grant = AccountCommand::GrantCredits {
        grant_id: "g".into(),
        // Enough for half of the callers at a time, so that many are refused.
        amount: Microcredits(1_600),
        expires_at: None,
        reason: "test".into(),
        actor: "finance".into(),
        granted_at: DateTime::UNIX_EPOCH,
    };
    accounts[0].execute("acme", &grant, &|_| Ok(vec![]), &Arc::default()).await.unwrap();
    let callers = (0..2).map(|node| {
        let accounts = &accounts[node];
        join_all((0..CALLERS).map(move |caller| spend(accounts, format!("{node}-{caller}"))))
    });
    for opened in join_all(callers).await {
        assert!(opened.iter().sum::<usize>() > 0, "a node never got on: {opened:?}");
    }

    let mut account = Account::default();
    for stored in nodes[0].log.load(Account::TYPE, "acme", 0).await.unwrap() {
        let event: AccountEvent = stored.decode(Account::TYPE, "acme").unwrap();
        account.evolve(&event);
        let json = serde_json::to_value(&event).unwrap();
        let stated = json.as_object().unwrap().values().next().unwrap().get("available_microcredits");
        if let Some(stated) = stated {
            assert_eq!(stated.as_i64().unwrap(), account.available().0, "{event:?}");
        }
        assert!(account.available() >= Microcredits::ZERO, "{event:?}");
    }
    assert_eq!(account.held(), Microcredits::ZERO);
    for node in nodes {
        node.stop().await;
    }
}
