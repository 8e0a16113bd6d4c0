-- Was the discharge summary written about another admission than the one asked about?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, note_id, hadm_id FROM sample_notes;

SELECT checked.*, filed_notes.hadm_id AS admission_of_note
FROM checked LEFT JOIN filed_notes USING (note_id)
WHERE filed_notes.hadm_id IS DISTINCT FROM checked.hadm_id;
