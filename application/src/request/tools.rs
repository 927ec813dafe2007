//! Tools, which are functions of the client's. What a provider runs by itself (web searches, code, computers) is refused: it
//! has prices of its own, is run as often as the model likes, and puts what it finds into the prompt.

use serde_json::Value;

use super::{MAX_TOOLS, messages::named};
use crate::{
    fields::Fields,
    ports::provider::prompt::{Tool, ToolChoice},
};

impl Fields {
    pub(super) fn tools(&mut self) -> Vec<Tool> {
        let tools: Vec<Value> = self.list("tools", MAX_TOOLS);
        tools.into_iter().enumerate().filter_map(|(nth, tool)| self.tool(&format!("tools[{nth}]"), tool)).collect()
    }

    fn tool(&mut self, at: &str, tool: Value) -> Option<Tool> {
        match tool.get("type").map(|kind| kind.as_str().unwrap_or_default()) {
            None | Some("function") => self.read(at, Some(tool)),
            Some(kind) => {
                let reason = "is not a function: what a provider runs itself costs what nobody can tell before. Give it as \
                              a function, and run it yourself";
                self.fault(&format!("{at}.{}", named(kind)), reason);
                None
            }
        }
    }

    pub(super) fn tool_choice(&mut self) -> Option<ToolChoice> {
        let choice: Value = self.take("toolChoice")?;
        let read = serde_json::from_value(choice).ok();
        if read.is_none() {
            let reason = "must be `auto`, `none`, `required` or {\"type\":\"function\",\"function\":{\"name\":…}}";
            self.fault("toolChoice", reason);
        }
        read
    }
}
