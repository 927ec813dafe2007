//! A workbook for Excel, `LibreOffice` and Numbers: a sheet of the rows, whose cells have the types of their columns, and one of the
//! watermark. No text is ever a formula there.

use chrono::Datelike;
use rust_xlsxwriter::{DocProperties, ExcelDateTime, Format, Workbook, Worksheet};

use super::{FormatError, Heading};
use crate::report::{
    column::{Kind, Value},
    watermark::Watermark,
};

/// What a sheet of Excel has, the names in the first one.
const MOST_ROWS: u32 = 1 << 20;
const COLUMN_WIDTH: f64 = 18.0;
const FIRST_YEAR: i32 = 1900;

/// Made of the rows alone, so that the same report is the same file. The rows are on disk until the end.
pub struct XlsxWriter {
    workbook: Workbook,
    heading: Heading,
    formats: Vec<Format>,
    rows: u32,
    pub done: Vec<u8>,
}

impl XlsxWriter {
    pub fn begin(heading: Heading) -> Result<Self, FormatError> {
        let mut workbook = Workbook::new();
        let made = ExcelDateTime::from_ymd(2000, 1, 1)?;
        workbook.set_properties(&DocProperties::new().set_creation_datetime(&made));
        let formats = heading.columns.iter().map(|column| {
            let format = Format::new();
            match column.kind {
                Kind::Text | Kind::Count => format,
                Kind::Day => format.set_num_format("yyyy-mm-dd"),
                Kind::Instant => format.set_num_format("yyyy-mm-dd hh:mm:ss.000"),
                Kind::Credits => format.set_num_format("0.######"),
                Kind::Usd => format.set_num_format("0.############"),
            }
        });
        let formats = formats.collect();
        let sheet = workbook.add_worksheet_with_constant_memory()?;
        sheet.set_name(heading.report)?;
        sheet.set_freeze_panes(1, 0)?;
        let bold = Format::new().set_bold();
        for (nth, column) in (0..).zip(&heading.columns) {
            sheet.set_column_width(nth, COLUMN_WIDTH)?;
            sheet.write_string_with_format(0, nth, column.name, &bold)?;
        }
        Ok(Self { workbook, heading, formats, rows: 0, done: Vec::new() })
    }

    pub fn row(&mut self, values: &[Value]) -> Result<(), FormatError> {
        self.rows += 1;
        if self.rows >= MOST_ROWS {
            return Err(FormatError::TooManyRows { most: MOST_ROWS - 1 });
        }
        let (row, formats) = (self.rows, &self.formats);
        let sheet = self.workbook.worksheet_from_index(0)?;
        for ((nth, value), format) in (0..).zip(values).zip(formats) {
            write(sheet, (row, nth), value, format)?;
        }
        Ok(())
    }

    pub fn end(&mut self, watermark: &Watermark) -> Result<(), FormatError> {
        let sheet = self.workbook.add_worksheet_with_constant_memory()?;
        sheet.set_name("watermark")?;
        let mut lines = vec![
            ("report".to_owned(), self.heading.report.to_owned()),
            ("parameters".to_owned(), self.heading.parameters.to_string()),
        ];
        if let serde_json::Value::Object(fields) = watermark.json() {
            lines.extend(fields.into_iter().map(|(name, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                (name, text)
            }));
        }
        for (row, (name, text)) in (0..).zip(&lines) {
            sheet.write_string(row, 0, name)?;
            sheet.write_string(row, 1, text)?;
        }
        self.done = self.workbook.save_to_buffer()?;
        Ok(())
    }
}

fn write(sheet: &mut Worksheet, (row, column): (u32, u16), value: &Value, format: &Format) -> Result<(), FormatError> {
    match value {
        Value::None => {}
        Value::Text(text) => _ = sheet.write_string(row, column, text)?,
        // Excel has no day before.
        Value::Day(day) if day.year() < FIRST_YEAR => _ = sheet.write_string(row, column, value.to_string())?,
        Value::Day(day) => _ = sheet.write_datetime_with_format(row, column, day, format)?,
        Value::Instant(at) if at.year() < FIRST_YEAR => _ = sheet.write_string(row, column, value.to_string())?,
        Value::Instant(at) => _ = sheet.write_datetime_with_format(row, column, at.naive_utc(), format)?,
        // Numbers of Excel have 15 digits, which is as near as it gets; the watermark has the exact sums.
        Value::Count(_) | Value::Credits(_) | Value::Usd(_) => {
            let number: f64 = value.to_string().parse().unwrap_or(f64::NAN);
            sheet.write_number_with_format(row, column, number, format)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use calamine::{Data, DataType, Reader, Xlsx};
    use chrono::NaiveDate;
    use serde_json::json;

    use super::*;
    use crate::report::{column::Column, watermark::Basis};

    fn written() -> Vec<u8> {
        let kinds = [
            ("reason", Kind::Text),
            ("day", Kind::Day),
            ("at", Kind::Instant),
            ("requests", Kind::Count),
            ("credits", Kind::Credits),
            ("cost", Kind::Usd),
        ];
        let columns = kinds.map(|(name, kind)| Column::new(name, kind, name)).to_vec();
        let heading = Heading { report: "usage", parameters: json!({ "month": "2026-11" }), columns };
        let mut writer = XlsxWriter::begin(heading).unwrap();
        let day = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
        let row = [
            Value::Text("=1+1".to_owned()),
            Value::Day(day),
            Value::Instant(day.and_hms_milli_opt(8, 30, 0, 125).unwrap().and_utc()),
            Value::Count(1_234_567),
            Value::Credits(-1_500_001),
            Value::Usd(1_250_000_000_001),
        ];
        writer.row(&row).unwrap();
        writer.row(&[const { Value::None }; 6]).unwrap();
        let basis = Basis { position: 14, chain_hash: "ab".repeat(32), recorded_at: None };
        writer.end(&Watermark { basis, rows: 2, totals: vec![], standing: vec![] }).unwrap();
        writer.done
    }

    #[test]
    fn cells_have_the_types_of_their_columns_no_text_is_a_formula_and_the_watermark_is_there() {
        let file = written();
        assert!(written() == file, "the same report is the same file");
        let mut workbook = Xlsx::new(Cursor::new(file)).unwrap();
        let sheet = workbook.worksheet_range("usage").unwrap();
        let cell = |column| sheet.get((1, column)).unwrap();
        assert_eq!(
            (sheet.get((0, 4)).unwrap(), cell(0)),
            (&Data::from("credits".to_owned()), &Data::from("=1+1".to_owned()))
        );
        assert_eq!(cell(1).as_date().unwrap().to_string(), "2026-11-22");
        assert_eq!(cell(2).as_datetime().unwrap().to_string(), "2026-11-22 08:30:00.125");
        assert_eq!(
            (cell(3).as_f64(), cell(4).as_f64(), cell(5).as_f64()),
            (Some(1_234_567.0), Some(-1.500_001), Some(1.250_000_000_001))
        );
        assert!(workbook.worksheet_formula("usage").unwrap().cells().all(|(.., formula)| formula.is_empty()));
        let watermark = workbook.worksheet_range("watermark").unwrap();
        let told: Vec<(String, String)> =
            watermark.rows().map(|row| (row[0].to_string(), row[1].to_string())).collect();
        assert!(told.contains(&("report".to_owned(), "usage".to_owned())), "{told:?}");
        assert!(told.contains(&("position".to_owned(), "14".to_owned())), "{told:?}");
    }
}
