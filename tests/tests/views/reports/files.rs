//! The formats: other programs read the same rows out of each.

use aihub_domain::account::AdjustmentKind;
use aihub_projections::report::{
    ReportError,
    format::Format,
    selection::{Fault, Name},
};
use aihub_tests::books::{End, accepted, outcome};
use parquet::{
    data_type::Decimal,
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::Field,
};
use serde_json::Value;
use sqlx::Executor;

use super::{ALL, catch_up, close, json, made, open_books, trade, try_made};
use crate::views::ledgers::{execute, note};

type Pairs = &'static [(&'static str, &'static str)];

/// A value as CSV has it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn decimal(decimal: &Decimal) -> String {
    let mut bytes = [if decimal.data()[0] & 0x80 == 0 { 0 } else { 0xff }; 16];
    bytes[16 - decimal.data().len()..].copy_from_slice(decimal.data());
    let (value, scale) = (i128::from_be_bytes(bytes), usize::try_from(decimal.scale()).unwrap());
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, rest) = digits.split_at(digits.len() - scale);
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{whole}.{rest}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn field(field: &Field) -> String {
    let time = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::Long(number) => number.to_string(),
        Field::Date(days) => (chrono::NaiveDate::default() + chrono::TimeDelta::days(i64::from(*days))).to_string(),
        Field::TimestampMicros(micros) => time(chrono::DateTime::from_timestamp_micros(*micros).unwrap()),
        Field::Decimal(value) => decimal(value),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn csv_and_parquet_hold_the_rows_of_the_json() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..120).await;
    catch_up(&database).await;
    for (name, pairs) in ALL {
        let report = json(&database, name, pairs).await;
        let names: Vec<_> = report["columns"].as_array().unwrap().iter().map(|column| text(&column["name"])).collect();
        let rows: Vec<Vec<String>> = report["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| names.iter().map(|name| text(&row[name])).collect())
            .collect();
        assert_eq!(report["watermark"]["rows"], rows.len());
        assert!(!rows.is_empty(), "{name:?}");

        let (csv, watermark) = made(&database, name, pairs, Format::Csv).await;
        let mut reader = csv::Reader::from_reader(csv.as_slice());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), names);
        let read: Vec<Vec<String>> =
            reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
        assert_eq!(read, rows, "{name:?}");
        assert_eq!(watermark.json(), report["watermark"]);

        let (file, _) = made(&database, name, pairs, Format::Parquet).await;
        let reader = SerializedFileReader::new(bytes::Bytes::from(file)).unwrap();
        let metadata = reader.metadata().file_metadata();
        assert_eq!(metadata.created_by(), Some("aihub"));
        let stated = metadata.key_value_metadata().unwrap().iter().find(|pair| pair.key == "aihub.watermark").unwrap();
        assert_eq!(serde_json::from_str::<Value>(stated.value.as_ref().unwrap()).unwrap(), report["watermark"]);
        let read: Vec<Vec<String>> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| row.unwrap().get_column_iter().map(|(_, value)| field(value)).collect())
            .collect();
        assert_eq!(read, rows, "{name:?}");

        let (beside, _) = made(&database, name, pairs, Format::Watermark).await;
        assert_eq!(serde_json::from_slice::<Value>(&beside).unwrap()["watermark"], report["watermark"]);
    }
}

#[tokio::test]
async fn focus_has_the_mandatory_columns_of_version_1_2() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..40).await;
    catch_up(&database).await;
    let (file, watermark) = made(&database, Name::Usage, &ALL[0].1[..2], Format::Focus).await;
    let mut reader = csv::Reader::from_reader(file.as_slice());
    let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    for mandatory in
        "BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart \
                      ChargeCategory ChargeClass ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost \
                      EffectiveCost InvoiceIssuerName ListCost PricingQuantity PricingUnit ProviderName PublisherName \
                      ServiceCategory ServiceName"
            .split_whitespace()
    {
        assert!(names.iter().any(|name| name == mandatory), "{mandatory}");
    }
    let rows: Vec<std::collections::BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len().to_string(), watermark.rows.to_string());
    // What failed at no cost is no charge, and each charge of usage has its price.
    let failed = "SELECT count(*) FROM usage_ledger_v1 WHERE price_id IS NULL AND charged_microcredits = 0";
    assert!(sqlx::query_scalar::<_, i64>(failed).fetch_one(database.pool()).await.unwrap() > 0);
    for row in &rows {
        let (price, sku) = (row["SkuPriceId"].is_empty(), row["SkuId"].is_empty());
        assert_eq!((price, sku), (row["ChargeCategory"] != "Usage", row["ChargeCategory"] != "Usage"), "{row:?}");
    }
    let row = &rows[0];
    assert_eq!(
        (row["BillingPeriodStart"].as_str(), row["BillingPeriodEnd"].as_str()),
        ("2024-10-01T00:00:00Z", "2024-11-01T00:00:00Z")
    );
    assert_eq!((row["BillingCurrency"].as_str(), row["ConsumedUnit"].as_str()), ("USD", "Tokens"));
}

#[tokio::test]
async fn focus_has_credit_and_debit_notes_as_charges_of_their_own_and_comes_to_what_was_spent() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..60).await;
    catch_up(&database).await;
    close(&database, "2024-10").await;
    execute(&books, "acme", note("given-back", AdjustmentKind::CreditNote, 7, Some("2024-10"))).await;
    execute(&books, "globex", note("charged-again", AdjustmentKind::DebitNote, 3, None)).await;
    catch_up(&database).await;
    let all = &ALL[0].1[..2];
    let rows = async |pairs: &[(&str, &str)]| {
        let (file, _) = made(&database, Name::Usage, pairs, Format::Focus).await;
        let rows = csv::Reader::from_reader(file.as_slice()).into_deserialize().map(Result::unwrap);
        rows.collect::<Vec<std::collections::BTreeMap<String, String>>>()
    };
    let noted: Vec<_> = rows(all).await.into_iter().filter(|row| row["ChargeCategory"] != "Usage").collect();
    let says = |columns: [&str; 6]| noted.iter().map(|row| columns.map(|name| row[name].clone())).collect::<Vec<_>>();
    assert_eq!(
        says([
            "x_NoteId",
            "ChargeCategory",
            "ChargeClass",
            "BillingAccountId",
            "BilledCost",
            "PricingCurrencyEffectiveCost"
        ]),
        [
            ["given-back", "Credit", "Correction", "acme", "0", "-0.000007"],
            ["charged-again", "Adjustment", "", "globex", "0", "0.000003"],
        ]
    );
    // They are booked where the ledger books them, and have nothing of what only usage has.
    let booked: String = sqlx::query_scalar(
        "SELECT to_char(accounting_month, 'YYYY-MM-DD') FROM credit_ledger_v1 WHERE reference = 'given-back'",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    assert!(noted[0]["BillingPeriodStart"].starts_with(&booked), "{noted:?}");
    assert!(noted[0]["ChargeDescription"].ends_with(", of 2024-10"), "{noted:?}");
    for column in ["ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingCategory", "SkuId", "SubAccountId"] {
        assert!(noted.iter().all(|row| row[column].is_empty()), "{column}");
    }
    assert!(rows(&[all, &[("user", "bob")]].concat()).await.iter().all(|row| row["ChargeCategory"] == "Usage"));

    for account in ["acme", "globex", "initech"] {
        let (_, focus) = made(&database, Name::Usage, &[all, &[("account", account)]].concat(), Format::Focus).await;
        let spent = focus.totals.iter().find(|(name, _)| *name == "PricingCurrencyEffectiveCost").unwrap().1.clone();
        assert_eq!(spent, books.accounts.load(account).await.unwrap().spent().to_string(), "{account}");
    }
}

#[tokio::test]
async fn rows_have_the_order_of_their_bytes_whatever_the_databases_locale_is() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    for (nth, price) in ["b", "A", "B", "a"].into_iter().enumerate() {
        let request_id = format!("request-{nth}");
        books.accept(&request_id, accepted("acme", "ann", "node-1", 40)).await;
        let mut end = outcome(0, 20);
        end.charge.price_id = Some(price.to_owned());
        books.end("acme", &request_id, End::Completed(end)).await.unwrap();
    }
    catch_up(&database).await;
    // As in a database of that language: there `a` stands in front of `A` and `B`.
    database
        .pool()
        .execute("ALTER TABLE read.usage_ledger_v1 ALTER price_id TYPE text COLLATE \"en-x-icu\"")
        .await
        .unwrap();
    let (file, _) = made(&database, Name::Usage, &[("month", "2024-10")], Format::Focus).await;
    let rows = csv::Reader::from_reader(file.as_slice()).into_deserialize().map(Result::unwrap);
    let prices = rows.map(|row: std::collections::BTreeMap<String, String>| row["SkuPriceId"].clone());
    assert_eq!(prices.collect::<Vec<_>>(), ["A", "B", "a", "b"]);
}

#[tokio::test]
async fn the_pages_of_a_report_are_the_report_whatever_happens_between_them() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..60).await;
    catch_up(&database).await;
    let (name, pairs) = ALL[0];
    let whole = json(&database, name, pairs).await;
    let (mut rows, mut cursor, mut from) = (Vec::new(), None::<String>, 60);
    loop {
        let mut pairs = pairs.to_vec();
        pairs.push(("limit", "7"));
        pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = json(&database, name, &pairs).await;
        assert_eq!(page["watermark"]["position"], whole["watermark"]["position"]);
        rows.extend_from_slice(page["rows"].as_array().unwrap());
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
        trade(&books, from..from + 2).await;
        from += 2;
        catch_up(&database).await;
    }
    assert_eq!(rows, *whole["rows"].as_array().unwrap());
    assert!(from > 66);
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_said_by_its_name() {
    let database = aihub_tests::database().await;
    let cases: [(Name, Pairs, Format, &str); 16] = [
        (Name::Usage, &[("month", "2024-13")], Format::Csv, "month"),
        (Name::Usage, &[("month", "2024-10"), ("to", "2024-10-09")], Format::Csv, "month"),
        (Name::Usage, &[("from", "yesterday")], Format::Csv, "from"),
        (Name::Usage, &[("to", "99999-01-01")], Format::Csv, "to"),
        (Name::Usage, &[("from", "2024-10-09"), ("to", "2024-10-08")], Format::Csv, "from"),
        (Name::Usage, &[("groupBy", "day,colour")], Format::Csv, "groupBy"),
        (Name::Usage, &[("groupBy", "day")], Format::Focus, "groupBy"),
        (Name::Usage, &[("asOf", "now")], Format::Csv, "asOf"),
        (Name::Usage, &[("limit", "0")], Format::Json, "limit"),
        (Name::Usage, &[("limit", "5")], Format::Csv, "limit"),
        (Name::Usage, &[("cursor", "5")], Format::Json, "cursor"),
        (Name::Holds, &[], Format::Focus, "format"),
        (Name::Holds, &[("month", "2024-10")], Format::Csv, "month"),
        (Name::Statement, &[("user", "ann")], Format::Csv, "user"),
        (Name::Statement, &[("from", "2024-10-02"), ("to", "2024-10-31")], Format::Csv, "from"),
        (Name::Close, &[], Format::Csv, "month"),
    ];
    for (name, pairs, format, expected) in cases {
        let refused = try_made(&database, name, pairs, format).await.map(|_| ()).unwrap_err();
        let ReportError::Fault(Fault { field, .. }) = refused else { panic!("{refused}") };
        assert_eq!(field, expected, "{name:?} {pairs:?}");
    }
    let other = "0.5.b8b7d1d5c4a94d1d8a90e1c7a8b1c2d3";
    let refused = try_made(&database, Name::Usage, &[("cursor", other)], Format::Json).await.unwrap_err();
    assert!(refused.to_string().contains("other parameters"), "{refused}");
}
