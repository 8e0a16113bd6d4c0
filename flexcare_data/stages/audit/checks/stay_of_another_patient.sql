-- Does a sample read the series of a stay of another patient or of another admission?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, subject_id, hadm_id, stay_id FROM samples WHERE stay_id IS NOT NULL;

SELECT checked.*, stays.subject_id AS patient_of_stay, stays.hadm_id AS admission_of_stay
FROM checked LEFT JOIN stays USING (stay_id)
WHERE stays.subject_id IS DISTINCT FROM checked.subject_id
   -- A radiograph can be taken during a stay although its time lies outside the admission as recorded.
   OR (checked.hadm_id IS NOT NULL AND task <> 'diagnosis' AND stays.hadm_id <> checked.hadm_id);
