//! Where videos are kept, and how they are delivered.

use aihub_infrastructure::media::{Delivery, location::Location};

use super::*;

#[test]
fn media_are_kept_in_the_data_directory_or_where_the_file_says_and_their_secrets_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let options = load("", &[]).unwrap().media.options(dir.path(), false).unwrap();
    assert_eq!(options.location, Location::Folder(dir.path().join("media")));
    assert_eq!(options.delivery, Delivery::Signed { public_url: None });

    let file = "[media]\nstore = \"s3://bucket/videos\"\ndelivery = \"presigned\"\n[media.options]\nendpoint = \"https://hunter2\"\n";
    let variables = [
        ("AIHUB__MEDIA__OPTIONS__AWS_ACCESS_KEY_ID", "hunter2"),
        ("AIHUB__MEDIA__FORMER_URL_SECRETS", "[\"hunter2-012345678901234567890123\"]"),
    ];
    let config = load(file, &variables).unwrap();
    let options = config.media.options(dir.path(), false).unwrap();
    assert!(matches!(options.location, Location::Bucket(..)) && options.delivery == Delivery::Presigned);
    let names: Vec<_> = options.location_options.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["aws_access_key_id", "endpoint"]);
    let shown = toml::to_string(&config).unwrap() + &format!("{config:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn what_media_could_not_be_kept_or_delivered_with_is_refused_by_its_name() {
    let file = "[media]\nstore = \"s3://bucket\"\nmax_bytes = 0\nurl_ttl_ms = 604_800_001\nurl_secret = \"short\"\n\
                former_url_secrets = [\"short\"]\ndelivery = \"cdn\"\npublic_url = \"hub\"\n[media.options]\nregoin = \"eu\"\n";
    let error = refused(file, &[]);
    for key in
        ["max_bytes", "url_ttl_ms", "url_secret", "former_url_secrets", "cdn_base_url", "public_url", "options.regoin"]
    {
        assert!(error.contains(&format!("media.{key} ")), "{key}: {error}");
    }
    let error = refused("[media]\nstore = \"/var/lib/media\"\ndelivery = \"presigned\"\n", &[]);
    assert!(error.contains("media.store is not a URL"), "{error}");
    let error = refused("[media]\ndelivery = \"presigned\"\n", &[]);
    assert!(error.contains("media.delivery can be `presigned` only"), "{error}");
}
