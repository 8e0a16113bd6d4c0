-- Does a sample belong to an admission that began after the patient's death, as those of organ donors do?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, hadm_id FROM samples WHERE hadm_id IS NOT NULL;

SELECT checked.* FROM checked JOIN admissions USING (hadm_id) WHERE after_death = 1;
