use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern(text.to_owned())
}

fn role(models: &[&str], providers: &[&str]) -> Role {
    Role {
        models: models.iter().map(|text| pattern(text)).collect(),
        providers: providers.iter().map(|text| pattern(text)).collect(),
        ..Role::default()
    }
}

fn capabilities<const N: usize>(roles: [(&str, Role); N]) -> Capabilities {
    Capabilities::new(roles.into_iter().map(|(name, role)| (name.to_owned(), Some(role.into()))).collect())
}

#[test]
fn a_star_stands_for_any_characters_or_none() {
    for (text, name, expected) in [
        ("*", "", true),
        ("*", "anything", true),
        ("", "", true),
        ("", "a", false),
        ("gpt-*", "gpt-", true),
        ("gpt-*", "gpt-5.4-mini", true),
        ("gpt-*", "my-gpt-5", false),
        ("*-mini", "gpt-5.4-mini", true),
        ("*-mini", "gpt-5.4-mini-2026", false),
        ("gpt-*-mini", "gpt-mini", false),
        ("gpt-*-mini", "gpt--mini", true),
        ("a*b*c", "abc", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "acb", false),
        ("a**c", "ac", true),
        ("aba*aba", "aba", false),
        ("aba*aba", "abaaba", true),
        ("*a*a*", "a", false),
        ("*é*", "café!", true),
        ("GPT-*", "gpt-5", false),
        ("gpt-?", "gpt-5", false),
        ("gpt-5", "gpt-5", true),
        ("gpt-5", "gpt-5.4", false),
    ] {
        assert_eq!(pattern(text).matches(name), expected, "{text:?} against {name:?}");
    }
}

#[test]
fn a_pattern_of_many_stars_is_matched_in_a_moment() {
    assert!(!pattern(&"a*".repeat(2_000)).matches(&format!("{}b", "a".repeat(1_900))));
}

#[test]
fn nothing_is_granted_to_a_token_without_roles() {
    let refusal = Capabilities::default().require(Operation::Chat, "openai", "gpt-5.4").unwrap_err();
    assert_eq!(refusal.to_string(), "a token without roles may not use chat; a role with `chat = true` is needed");
    Capabilities::default().require_reports(Reports::Own).unwrap_err();
    Capabilities::default().require_audit().unwrap_err();
    Capabilities::default().require_administration().unwrap_err();
}

#[test]
fn an_unknown_role_grants_nothing_and_the_refusal_names_it() {
    let refusal = Capabilities::new(vec![("root".into(), None)]).require_administration().unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "role `root` (not configured here) may not administer; a role with `administration = true` is needed"
    );
}

#[test]
fn a_role_with_chat_but_without_patterns_may_use_no_model() {
    let refusal =
        capabilities([("user", Role { chat: true, ..Role::default() })]).require(Operation::Chat, "openai", "gpt-5.4");
    assert_eq!(
        refusal.unwrap_err().to_string(),
        "role `user` may not use model `gpt-5.4` for chat; a role with `chat = true` and `models` matching it is needed"
    );
}

#[test]
fn a_refused_provider_is_named_together_with_the_model() {
    let user = Role { chat: true, ..role(&["*"], &["vllm"]) };
    let refusal = capabilities([("user", user)]).require(Operation::Chat, "openai", "gpt-5.4").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "role `user` may not use provider `openai` for chat with model `gpt-5.4`; a role with `chat = true`, \
         `models` matching the model and `providers` matching the provider is needed"
    );
}

#[test]
fn chat_embedding_and_video_are_granted_apart() {
    let chat_only = capabilities([("user", Role { chat: true, ..role(&["*"], &["*"]) })]);
    chat_only.require(Operation::Chat, "openai", "gpt-5.4").unwrap();
    chat_only.require(Operation::Embedding, "openai", "gpt-5.4").unwrap_err();
    chat_only.require(Operation::Video, "openai", "gpt-5.4").unwrap_err();
}

#[test]
fn several_roles_allow_what_one_of_them_allows() {
    let both = capabilities([
        ("small", Role { chat: true, ..role(&["*-mini"], &["*"]) }),
        ("local", Role { chat: true, ..role(&["*"], &["vllm"]) }),
    ]);
    both.require(Operation::Chat, "openai", "gpt-5.4-mini").unwrap();
    both.require(Operation::Chat, "vllm", "gpt-5.4").unwrap();
    both.require(Operation::Chat, "openai", "gpt-5.4").unwrap_err();
}

#[test]
fn what_one_role_grants_for_embedding_does_not_widen_what_another_grants_for_chat() {
    let both = capabilities([
        ("small", Role { chat: true, ..role(&["*-mini"], &["*"]) }),
        ("index", Role { embedding: true, ..role(&["*"], &["*"]) }),
    ]);
    let refusal = both.require(Operation::Chat, "openai", "gpt-5.4").unwrap_err();
    assert!(refusal.to_string().starts_with("roles `small`, `index` may not use model `gpt-5.4` for chat"));
}

#[test]
fn own_reports_are_those_of_the_principals_account() {
    let reader = |reports| Principal {
        user: "ann".into(),
        account: "shop".into(),
        roles: vec!["reader".into()],
        expires_at: DateTime::UNIX_EPOCH,
        capabilities: capabilities([("reader", Role { reports, ..Role::default() })]),
    };
    reader(Reports::None).require_reports_on("shop").unwrap_err();
    reader(Reports::Own).require_reports_on("shop").unwrap();
    assert_eq!(
        reader(Reports::Own).require_reports_on("ann").unwrap_err().to_string(),
        "role `reader` may not read reports of all accounts; a role with `reports = \"all\"` is needed"
    );
    reader(Reports::All).require_reports_on("ann").unwrap();
}

#[test]
fn an_identifier_can_be_a_stream_id() {
    for name in
        ["ann", "7", "auth0|5f7c", "ann+x@example.com", "spiffe://example.com/web", "a:b_c~d=", &"a".repeat(256)]
    {
        assert!(is_identifier(name), "{name}");
    }
    for name in
        ["", "-a", ".", "..", "a/../b", "a b", "a\n", "a\0", "a*", "a'b", "a\"b", "a\\b", "а", "é", &"a".repeat(257)]
    {
        assert!(!is_identifier(name), "{name:?}");
    }
}
