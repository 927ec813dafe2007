//! The roles that exist here: the built-in ones, and those of the configuration.

use std::{collections::BTreeMap, sync::Arc};

use aihub_application::principal::{Capabilities, Pattern, Reports, Role};

/// The configured roles by name, as in `[roles.user]`.
pub type RoleSettings = BTreeMap<String, Role>;

/// Every role by name.
#[derive(Debug, Clone)]
pub struct Roles(BTreeMap<String, Arc<Role>>);

impl Roles {
    /// The built-in roles and the configured ones. A configured role takes the place of the built-in one of that
    /// name as a whole, so that what stands in the configuration is all that it grants.
    pub fn new(configured: RoleSettings) -> Self {
        let mut roles = built_in();
        roles.extend(configured);
        Self(roles.into_iter().map(|(name, role)| (name, Arc::new(role))).collect())
    }

    /// What the roles of these names grant together.
    pub fn capabilities(&self, names: &[String]) -> Capabilities {
        Capabilities::new(names.iter().map(|name| (name.clone(), self.0.get(name).cloned())).collect())
    }
}

/// What the people that the hub is for can do without any configuration.
fn built_in() -> RoleSettings {
    let everything = || vec![Pattern("*".to_owned())];
    let user = Role {
        chat: true,
        embedding: true,
        video: true,
        models: everything(),
        providers: everything(),
        reports: Reports::Own,
        ..Role::default()
    };
    let finance = Role { reports: Reports::All, ..Role::default() };
    let auditor = Role { reports: Reports::All, audit: true, ..Role::default() };
    let admin = Role { reports: Reports::All, audit: true, administration: true, ..user.clone() };
    [("user", user), ("finance", finance), ("auditor", auditor), ("admin", admin)]
        .map(|(name, role)| (name.to_owned(), role))
        .into()
}

#[cfg(test)]
mod tests {
    use aihub_application::principal::Operation;

    use super::*;

    fn with(roles: &Roles, names: &[&str]) -> Capabilities {
        roles.capabilities(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_built_in_roles_grant_what_their_people_need_and_no_more() {
        let roles = Roles::new(RoleSettings::new());
        let table = |name| {
            let it = with(&roles, &[name]);
            let chat = it.require(Operation::Chat, "openai", "gpt-5.4").is_ok();
            let all_reports = it.require_reports(Reports::All).is_ok();
            (chat, all_reports, it.require_audit().is_ok(), it.require_administration().is_ok())
        };
        assert_eq!(table("user"), (true, false, false, false));
        assert_eq!(table("finance"), (false, true, false, false));
        assert_eq!(table("auditor"), (false, true, true, false));
        assert_eq!(table("admin"), (true, true, true, true));
        assert_eq!(table("root"), (false, false, false, false));
    }

    #[test]
    fn a_configured_role_takes_the_place_of_the_built_in_one_as_a_whole() {
        let configured = serde_json::from_str(r#"{"user": {"chat": true, "models": ["gpt-*"], "providers": ["*"]}}"#);
        let roles = Roles::new(configured.unwrap());
        let user = with(&roles, &["user"]);
        user.require(Operation::Chat, "openai", "gpt-5.4").unwrap();
        user.require(Operation::Chat, "anthropic", "claude-5").unwrap_err();
        user.require(Operation::Video, "openai", "gpt-5.4").unwrap_err();
        user.require_reports(Reports::Own).unwrap_err();
        with(&roles, &["user", "finance"]).require_reports(Reports::All).unwrap();
    }

    #[test]
    fn a_capability_that_does_not_exist_is_refused_in_the_configuration() {
        let refused = serde_json::from_str::<RoleSettings>(r#"{"user": {"chatting": true}}"#).unwrap_err();
        assert!(refused.to_string().contains("unknown field `chatting`"), "{refused}");
    }
}
