-- Does a sample have a note although the cohorts were built without notes?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, note_id FROM samples;

SELECT * FROM checked WHERE note_id IS NOT NULL;
