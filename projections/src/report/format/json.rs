use serde_json::{Value as Json, json};

use super::{FormatError, Heading};
use crate::report::{
    column::{Column, Value},
    watermark::Watermark,
};

/// One object, with one row a line.
pub struct JsonWriter {
    pub text: Vec<u8>,
    columns: Vec<Column>,
    is_first: bool,
}

impl JsonWriter {
    pub fn begin(heading: &Heading) -> Result<Self, FormatError> {
        let columns: Vec<_> =
            heading.columns.iter().map(|column| json!({ "name": column.name, "type": column.kind.name() })).collect();
        let (report, parameters) = (Json::from(heading.report), &heading.parameters);
        let text = format!(
            "{{\"report\":{report},\"parameters\":{parameters},\"columns\":{},\"rows\":[",
            serde_json::to_string(&columns)?
        );
        Ok(Self { text: text.into_bytes(), columns: heading.columns.clone(), is_first: true })
    }

    pub fn row(&mut self, values: &[Value]) -> Result<(), FormatError> {
        self.text.extend_from_slice(if self.is_first { b"\n{" } else { b",\n{" });
        self.is_first = false;
        for (nth, (column, value)) in self.columns.iter().zip(values).enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            self.text.extend_from_slice(format!("{comma}\"{}\":", column.name).as_bytes());
            serde_json::to_writer(&mut self.text, &value.json())?;
        }
        self.text.push(b'}');
        Ok(())
    }

    pub fn end(&mut self, watermark: &Watermark, next: Option<&str>) {
        let next = next.map(|next| format!("\"nextCursor\":{},", Json::from(next))).unwrap_or_default();
        let end = format!("\n],{next}\"watermark\":{}}}\n", watermark.json());
        self.text.extend_from_slice(end.as_bytes());
    }
}
