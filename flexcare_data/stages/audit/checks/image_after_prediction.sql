-- Was the radiograph taken after the question is asked?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, dicom_id, prediction_time FROM samples WHERE dicom_id IS NOT NULL;

SELECT checked.*, study_datetime
FROM checked LEFT JOIN radiographs USING (dicom_id)
WHERE coalesce(study_datetime > prediction_time, true);
