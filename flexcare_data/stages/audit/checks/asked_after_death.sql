-- Is the risk of death asked of a patient who has died before? The time of death is that of the hospital's record; of a
-- date alone, the end of that day.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, hadm_id, prediction_time
FROM samples WHERE task IN ('in_hospital_mortality', 'decompensation');

SELECT checked.*, coalesce(deathtime, death_time) AS died
FROM checked JOIN admissions USING (hadm_id)
WHERE coalesce(deathtime, death_time) < prediction_time;
