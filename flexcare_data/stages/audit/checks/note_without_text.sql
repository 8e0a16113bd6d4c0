-- Does a sample name a note that has no text to read, or that does not exist?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, note_id FROM sample_notes;

SELECT checked.* FROM checked LEFT JOIN filed_notes USING (note_id) WHERE NOT coalesce(has_text, false);
