-- Was the note written about another patient?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, note_id, subject_id FROM sample_notes;

SELECT checked.*, filed_notes.subject_id AS patient_of_note
FROM checked LEFT JOIN filed_notes USING (note_id)
WHERE filed_notes.subject_id IS DISTINCT FROM checked.subject_id;
