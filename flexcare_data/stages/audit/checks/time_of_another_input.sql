-- Are the times of the radiograph and of the note, as written for the sample, those of another radiograph or note?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, dicom_id, note_id, image_time, note_time FROM samples;

WITH filed AS (
    SELECT task, sample_id, max(filed) AS last_filed
    FROM sample_notes LEFT JOIN filed_notes USING (note_id) GROUP BY task, sample_id
)
SELECT checked.*, study_datetime, last_filed
FROM checked LEFT JOIN radiographs USING (dicom_id) LEFT JOIN filed USING (task, sample_id)
WHERE image_time IS DISTINCT FROM study_datetime OR note_time IS DISTINCT FROM last_filed;
