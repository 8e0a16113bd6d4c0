-- Does a sample belong to an admission that began after the patient's death, as those of organ donors do? The table says
-- so, or its times do: the death recorded for an admission that began earlier, unless it is more than a year before the
-- patient's last admission; without any such record the patient's date. A sample whose admission is not in the table is
-- refused too.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, hadm_id FROM samples WHERE hadm_id IS NOT NULL;

WITH last_admissions AS (
    SELECT subject_id, max(admittime) AS last FROM admissions GROUP BY subject_id
), recorded AS (
    SELECT subject_id, admittime AS began, deathtime AS died
    FROM admissions JOIN last_admissions USING (subject_id)
    WHERE deathtime IS NOT NULL AND (last IS NULL OR deathtime >= last - INTERVAL 365 DAYS)
), begun_after AS (
    SELECT hadm_id FROM admissions WHERE after_death = 1
    UNION
    SELECT hadm_id FROM admissions JOIN recorded USING (subject_id) WHERE began < admittime AND died <= admittime
    UNION
    SELECT hadm_id FROM admissions
    WHERE death_time <= admittime AND subject_id NOT IN (SELECT subject_id FROM recorded)
)
SELECT checked.*
FROM checked LEFT JOIN admissions ON admissions.hadm_id = checked.hadm_id
WHERE admissions.hadm_id IS NULL OR checked.hadm_id IN (SELECT hadm_id FROM begun_after);
