-- Could the note be read only after the question is asked? A note is filed at the later of charttime and storetime.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, note_id, prediction_time FROM sample_notes;

SELECT checked.*, filed
FROM checked LEFT JOIN filed_notes USING (note_id)
WHERE coalesce(filed > prediction_time, true);
