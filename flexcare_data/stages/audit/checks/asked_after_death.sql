-- Is the risk of death asked of a patient who has died before? The time of death is that of the admission's record,
-- unless it is more than a year before the admission; else that of the patient, of a date alone the end of that day. A
-- sample whose admission is not in the table is refused too.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, hadm_id, prediction_time
FROM samples WHERE task IN ('in_hospital_mortality', 'decompensation');

WITH deaths AS (
    SELECT hadm_id,
        coalesce(CASE WHEN deathtime < admittime - INTERVAL 365 DAYS THEN NULL ELSE deathtime END, death_time) AS died
    FROM admissions
)
SELECT checked.*, died
FROM checked LEFT JOIN deaths ON deaths.hadm_id = checked.hadm_id
WHERE deaths.hadm_id IS NULL OR died < prediction_time;
